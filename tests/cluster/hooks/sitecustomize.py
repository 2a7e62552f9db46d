"""Loaded by the interpreter of a test's trainings: each stands still in its LT_TEST_STAND-th update until a signal, and
notes every update in LT_TEST_UPDATES.

SLURM wakes what it ends (SIGCONT before SIGTERM), so a standing training meets its fate as a running one would, and a
test that waits for it costs no processor time.
"""

import os
import signal
import sys
import time

AT = os.environ.get("LT_TEST_STAND")

if AT and "scripts/train.py" in sys.orig_argv and "torch.distributed.run" not in sys.orig_argv:
    sys.path.insert(0, os.getcwd())
    from lt import engine

    original, done = engine._update, []
    out = sys.orig_argv[sys.orig_argv.index("--out") + 1]

    def update(state, *rest):
        original(state, *rest)
        done.append(None)
        with open(os.environ["LT_TEST_UPDATES"], "a") as file:
            file.write(f"{out} {state.epoch} {state.step}\n")
        if len(done) == int(AT):
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1)  # SIGTERM follows SIGCONT

    engine._update = update
