"""`lt rehearse FAMILY OUT`: the exact layout of a data set with made-up images, before the real one is there."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", help="imagenet_lt, places_lt, inat18, imagenet_bal, cifar10_lt, ...")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--cap", type=int, help="at most this many training images a class")
    parser.add_argument("--test", type=int, help="test images a class (as in the real set)")
    parser.add_argument("--pixels", default="images", help="images, empty (files of no bytes) or none (lists only)")
    parser.add_argument("--size", type=int, default=32, help="of an image (32)")


def main(given: argparse.Namespace) -> None:
    from lt.artefact import writing
    from lt.data.rehearse import rehearse

    more = {"cap": given.cap, "test_per_class": given.test, "pixels": given.pixels, "size": given.size}
    with writing(given.out):
        print(rehearse(given.family, given.out, **more))
