import pytest
import torch
import torch.nn.functional as F

from lt.errors import UserError
from lt.models import heads

CASES = [
    ("linear", {}),
    ("cosine", {"form": "squash"}),
    ("cosine", {"form": "normed"}),
    ("lws", {}),
    ("lws", {"train_linear": False}),
    ("tau_norm", {"tau": 0.7}),
    *[("ncm", {"form": form, "metric": metric}) for form in heads.NCM_FORMS for metric in heads.NCM_METRICS],
]
LEARN = [case for case in CASES if case[0] != "ncm"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(name, options, *, dim=6, classes=4, dtype=torch.float64):
    head = heads.build(name, dim, classes, **options).to(dtype)
    if name == "ncm":
        features = torch.randn(40, dim, generator=generator(1), dtype=torch.float64)
        head.fit(features.to(dtype), torch.arange(40) % classes)
    else:
        for parameter in head.parameters():
            values = torch.randn(parameter.shape, generator=generator(2), dtype=torch.float64)
            parameter.data = values.to(dtype)
    return head


def permuted(head, order):
    """The same head with its classes in another order."""
    other = make(*head.case, classes=len(order))
    state = head.state_dict()
    for name, value in state.items():
        if name != "mean":
            axis = 1 if isinstance(head, heads.CosineNormed) else 0
            state[name] = value.index_select(axis, order)
    other.load_state_dict(state)
    return other


def test_registry_is_covered():
    assert {name for name, _ in CASES} | {"projector"} == set(heads.HEADS)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, -1e4])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite(name, options, scale, batch, dtype):
    head = make(name, options, dtype=dtype)
    x = (torch.randn(batch, 6, generator=generator(), dtype=dtype) * scale).requires_grad_()
    logits = head(x)
    assert logits.shape == (batch, 4) and torch.isfinite(logits).all()
    F.cross_entropy(logits, torch.arange(batch) % 4).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_one_class(name, options):
    logits = make(name, options, classes=1)(torch.randn(3, 6, dtype=torch.float64))
    assert logits.shape == (3, 1) and torch.isfinite(logits).all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_permutation_of_classes_and_no_state(name, options):
    head = make(name, options)
    head.case = (name, options)
    x, order = torch.randn(5, 6, generator=generator(), dtype=torch.float64), torch.tensor([2, 0, 3, 1])
    first = head(x)
    assert torch.equal(head(x), first)
    torch.testing.assert_close(permuted(head, order)(x), first[:, order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head(x[[3]]), first[[3]], rtol=1e-12, atol=1e-12)  # samples are independent


@pytest.mark.parametrize(("name", "options"), LEARN)
def test_gradient(name, options):
    head = make(name, options)
    x = torch.randn(3, 6, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: head(x), (x, *head.parameters()))
    single = make(name, options, dtype=torch.float32)
    torch.testing.assert_close(single(x.float()).double(), head(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_forward_draws_nothing(name, options):
    head, before = make(name, options), torch.random.get_rng_state()
    head(torch.ones(2, 6, dtype=torch.float64))
    assert torch.equal(before, torch.random.get_rng_state())


def test_zero_rows():
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert torch.equal(heads.tau_normalised(weight, 1.0), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    for form in ("squash", "normed"):
        head = heads.cosine(2, 2, form=form)
        head.weight.data.zero_()
        assert torch.equal(head(torch.ones(1, 2)), torch.zeros(1, 2))


def test_cosine_forms():
    x = torch.tensor([[3.0, 4.0]])
    squash, normed = heads.cosine(2, 1, form="squash"), heads.cosine(2, 1, form="normed")
    squash.weight.data = torch.tensor([[10.0, 0.0]])
    normed.weight.data = torch.tensor([[10.0], [0.0]])
    assert squash(x).item() == pytest.approx(16 * 5 / 6 * 0.6)
    assert normed(x).item() == pytest.approx(30 * 0.6)
    assert heads.cosine(8, 5).weight.shape == (5, 8)
    start = heads.cosine(8, 5, form="normed").weight
    assert start.shape == (8, 5)
    torch.testing.assert_close(start.norm(dim=0), torch.ones(5))
    assert heads.cosine(2, 1, form="normed", scale=5.0)(x).abs().item() <= 5


def test_ncm_without_samples_of_a_class():
    head = heads.NCM(2, 3, form="un").fit(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 2]))
    logits = head(torch.tensor([[2.0, 0.0], [-9.0, 0.0]]))
    assert logits.argmax(1).tolist() == [2, 0]
    assert (logits[:, 1] == torch.finfo(logits.dtype).min).all()
    with pytest.raises(UserError, match="at least one"):
        heads.NCM(2, 3).fit(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    again = heads.NCM(2, 3, form="un")
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(torch.ones(1, 2)), head(torch.ones(1, 2)))


def test_unknown_names():
    for name, options, words in (
        ("liner", {}, "did you mean 'linear'"),
        ("ncm", {"form": "x"}, "unknown form of the class means 'x'"),
        ("ncm", {"metric": "l3"}, "unknown metric"),
        ("tau_norm", {"p": 1}, "has no option 'p'; known: tau"),
    ):
        with pytest.raises(UserError, match=words):
            heads.build(name, 2, 2, **options)
