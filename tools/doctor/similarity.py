"""Pairs of duplicate images: by equal pixels, or by perceptual hash, confirmed by the correlation of thumbnails.

Hashes of 64 bits are compared all with all, in numpy and on all cores: 5,000 million pairs in seconds. Near hashes
propose a pair, and the thumbnails' correlation decides. Thumbnails are blurred first, as resizing and compression
change fine detail, which is most of a noisy or flat image. X-rays, which all look alike, propose thousands of pairs for
each true one, so a block with many proposals is decided by one matrix product.
"""

from dataclasses import dataclass

import cv2
import joblib
import numpy as np

MAX_DISTANCE = 10  # of 64 bits; 96 % of photos of 128 px at JPEG quality 30 lie within, of smaller ones fewer
MIN_CORRELATION = 0.995  # of blurred thumbnails; two X-rays of other patients reach 0.989, two digits 0.992

_BLOCK = 256  # images that are compared with all others at once
_MAX_PAIRS = 25_600_000  # of one block, 8 bytes each
_NUM_GATHERED = 20_000  # pairs whose blurred thumbnails are copied at once
_DENSE = 0.02  # share of proposed pairs above which a matrix product is faster than picking them
_MAX_PARTNERS = 32  # pairs whose first image is the same


@dataclass(frozen=True)
class Pairs:
    """P pairs of images, as rows of a scan."""

    first: np.ndarray  # (P,) int
    second: np.ndarray  # (P,) int
    is_exact: np.ndarray  # (P,) bool: equal pixels; else nearly equal

    def __len__(self):
        return len(self.first)

    def take(self, chosen):
        """Return the pairs of a bool mask."""
        return Pairs(self.first[chosen], self.second[chosen], self.is_exact[chosen])


def find_pairs(digests, hashes, thumbnails, rows):
    """Return the Pairs among some images.

    Of k images with equal pixels each is paired with the next, which makes k - 1 pairs; only the first of them is
    compared with other images. An image is the first of 32 near pairs at most.

    Args:
        digests, hashes: (N,) uint64.
        thumbnails: (N, H, W) uint8.
        rows: (M,) int, ascending: the images to compare; without blank ones, which all have one hash.
    """
    order = rows[np.argsort(digests[rows], kind="stable")]
    is_copy = digests[order][1:] == digests[order][:-1]
    exact = order[:-1][is_copy], order[1:][is_copy]
    distinct = np.sort(order[np.concatenate([[True], ~is_copy])]) if len(order) else order
    near = find_near(hashes[distinct], thumbnails[distinct])
    first, second = (np.concatenate([one, distinct[other]]) for one, other in zip(exact, near, strict=True))
    return Pairs(first, second, np.arange(len(first)) < len(exact[0]))


def find_near(hashes, thumbnails):
    """Return (first, second), int arrays of indices with first < second, of images that are nearly the same.

    At most MAX_DISTANCE bits differ, and the blurred thumbnails correlate by at least MIN_CORRELATION, which ignores
    brightness and contrast.

    Args:
        hashes: (N,) uint64.
        thumbnails: (N, H, W) uint8.
    """
    shapes = _standardize(thumbnails)
    block = max(1, min(_BLOCK, _MAX_PAIRS // max(1, len(hashes))))
    starts = range(0, len(hashes), block)
    found = joblib.Parallel(joblib.cpu_count(), backend="threading", return_as="generator")(
        joblib.delayed(_search_block)(slice(start, start + block), hashes, shapes) for start in starts
    )
    blocks = [(np.zeros(0, np.intp), np.zeros(0, np.intp)), *found]
    first, second = (np.concatenate(one) for one in zip(*blocks, strict=True))
    return first, second


def connect(num_images, pairs):
    """Return (N,) int: the connected component of each image in the graph of pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs.first, pairs.second)), shape=(num_images, num_images))
    return connected_components(links, directed=False)[1]


def _search_block(places, hashes, shapes):
    """Compare the images of a block, a slice of indices, with each other and with all later ones."""
    start, block = places.start, hashes[places]
    is_near = np.bitwise_count(block[:, None] ^ hashes[None, start:]) <= MAX_DISTANCE
    np.logical_and(is_near, np.arange(is_near.shape[1]) > np.arange(len(block))[:, None], out=is_near)
    if np.count_nonzero(is_near) > _DENSE * is_near.size:
        is_near &= shapes[places] @ shapes[start:].T >= MIN_CORRELATION
        first, second = np.nonzero(is_near)
    else:
        first, second = np.nonzero(is_near)
        alike = _correlate(shapes, first + start, second + start) >= MIN_CORRELATION
        first, second = first[alike], second[alike]
    # the pairs are sorted by first: the one 32 before has another first, or this first has its 32
    is_kept = np.ones(len(first), bool)
    is_kept[_MAX_PARTNERS:] = first[_MAX_PARTNERS:] != first[:-_MAX_PARTNERS]
    return first[is_kept] + start, second[is_kept] + start


def _correlate(shapes, first, second):
    """Return (P,) float32: the correlation of shapes[first] and shapes[second]."""
    correlations = [np.zeros(0, np.float32)]
    for begin in range(0, len(first), _NUM_GATHERED):
        one, other = (rows[begin : begin + _NUM_GATHERED] for rows in (first, second))
        correlations.append(np.einsum("ij,ij->i", shapes[one], shapes[other]))
    return np.concatenate(correlations)


def _standardize(thumbnails):
    """Return (N, D) float32 of mean 0 and length 1, blurred and at half the size: dot products are correlations."""
    count, height, width = thumbnails.shape
    shapes = np.empty((count, (height + 1) // 2 * ((width + 1) // 2)), np.float32)
    for row, thumbnail in enumerate(thumbnails):
        shapes[row] = cv2.pyrDown(thumbnail.astype(np.float32)).ravel()
    shapes -= shapes.mean(axis=1, keepdims=True)
    shapes /= np.maximum(np.linalg.norm(shapes, axis=1, keepdims=True), 1e-6)
    return shapes
