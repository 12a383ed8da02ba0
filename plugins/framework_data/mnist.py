"""MNIST and Fashion-MNIST, with files pinned by digest."""

from __future__ import annotations

import logging
from typing import Literal

from framework_data.digits import DIGITS, digit_facts, load_digits
from framework_data.download import UnavailableError
from framework_data.idx import IdxFile
from framework_data.images import Images, ImageSet, load_images
from framework_data.pipeline import InMemoryPipeline, hold_out

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def _files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[IdxFile, ...]:
    return (
        IdxFile("train-images-idx3-ubyte", (60_000, 28, 28), train_images),
        IdxFile("train-labels-idx1-ubyte", (60_000,), train_labels, values=10),
        IdxFile("t10k-images-idx3-ubyte", (10_000, 28, 28), test_images),
        IdxFile("t10k-labels-idx1-ubyte", (10_000,), test_labels, values=10),
    )


MNIST = ImageSet(
    name="mnist",
    title="MNIST",
    files=_files(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    mirrors=("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
    folders=(),
    mean=0.1307,
    std=0.3081,
    classes=DIGITS,
)

FASHION_MNIST = ImageSet(
    name="fashion_mnist",
    title="Fashion-MNIST",
    files=_files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    folders=("/usr/share/datasets/fashion-mnist",),  # Debian's package dataset-fashion-mnist
    mean=0.2860,
    std=0.3530,
    classes=CLOTHES,
)


def mnist(
    batch_size: int = 128,
    eval_batch_size: int = 1000,
    root: str | None = None,
    offline: Literal["digits", "error"] = "digits",
    validation: int | float = 0,
    train_limit: int | None = None,
    normalize: bool = True,
) -> InMemoryPipeline:
    """MNIST: 70,000 handwritten digits, 60,000 of them for training.

    Inputs are float32 [B, 28, 28, 1], targets int32 [B] in 0..9. Its four files are looked up in mnist/, in the folders
    of $FRAMEWORK_DATA and in the user's cache. Else they are downloaded to the cache. Their content is verified.

    Args:
      batch_size: training examples in a step.
      eval_batch_size: examples in an evaluation batch.
      root: only folder to look in, which holds the files or a folder mnist/.
      offline: without MNIST, go on with the 1,797 digits that ship with the package, or refuse.
      validation: number of training examples (or their share, below 1) in the split "validation".
      train_limit: number of training examples at most, from the first on.
      normalize: shift and scale pixels to mean 0 and standard deviation 1; without it they lie in [0, 1].

    Raises: DataError if `root` lacks files, or with offline=error if MNIST is not found and cannot be downloaded.
      Threads read the files; the pipeline's `ready` waits for them, and raises DataError if one is damaged.

    Reference: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-Based Learning Applied to Document Recognition,
    Proceedings of the IEEE, 1998.
    """
    try:
        images = load_images(MNIST, root, normalize)
    except UnavailableError as reason:
        if offline == "error":
            raise
        train, test, source = load_digits(28, normalize)
        images = Images(train, test, f"{source}, in place of MNIST", facts=digit_facts(28, normalize))
        logging.getLogger("framework").warning("%s Going on with %s.", reason, images.source)
    return _pipeline(images, validation, train_limit, batch_size, eval_batch_size)


def fashion_mnist(
    batch_size: int = 128,
    eval_batch_size: int = 1000,
    root: str | None = None,
    validation: int | float = 0,
    train_limit: int | None = None,
    normalize: bool = True,
) -> InMemoryPipeline:
    """Fashion-MNIST: 70,000 pictures of clothes in ten classes, shaped and split like MNIST.

    Inputs are float32 [B, 28, 28, 1], targets int32 [B] in 0..9. Its files are looked up as those of `mnist`, in
    folders named fashion_mnist/, and in the folder of Debian's package dataset-fashion-mnist. No other data replace
    them.

    Args:
      batch_size: training examples in a step.
      eval_batch_size: examples in an evaluation batch.
      root: only folder to look in, which holds the files or a folder fashion_mnist/.
      validation: number of training examples (or their share, below 1) in the split "validation".
      train_limit: number of training examples at most, from the first on.
      normalize: shift and scale pixels to mean 0 and standard deviation 1; without it they lie in [0, 1].

    Raises: DataError if the data are not found and cannot be downloaded; the pipeline's `ready` does if a file is
      damaged.

    Reference: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset, 2017, arXiv:1708.07747.
    """
    images = load_images(FASHION_MNIST, root, normalize)
    return _pipeline(images, validation, train_limit, batch_size, eval_batch_size)


def _pipeline(
    images: Images, validation: int | float, train_limit: int | None, batch_size: int, eval_batch_size: int
) -> InMemoryPipeline:
    train, evals = hold_out(images.train, images.test, validation, train_limit)
    source, ready, scale = images.source, images.ready, images.scale
    pipeline = InMemoryPipeline(train, evals, batch_size, eval_batch_size, source, ready, scale)
    pipeline.facts = images.facts
    return pipeline
