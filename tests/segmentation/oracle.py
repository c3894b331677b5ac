"""The whole-volume decoders written as plainly as can be: slow, independent, the judge of ours."""

import heapq
from itertools import pairwise, product

import numpy as np
from scipy import ndimage, sparse

FACES = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (0, 1, 0), (1, 0, 0))
AROUND = tuple(d for d in product((-1, 0, 1), repeat=3) if any(d))


def neighbours(voxel, shape, steps):
    for step in steps:
        near = tuple(a + b for a, b in zip(voxel, step, strict=True))
        if all(0 <= c < n for c, n in zip(near, shape, strict=True)):
            yield near


def label_26(mask):
    """Components that share a face, edge or corner, numbered 1.. in raster order."""
    label = np.zeros(mask.shape, np.int64)
    n = 0
    for voxel in map(tuple, np.argwhere(mask)):
        if label[voxel]:
            continue
        n += 1
        label[voxel] = n
        stack = [voxel]
        while stack:
            for near in neighbours(stack.pop(), mask.shape, AROUND):
                if mask[near] and not label[near]:
                    label[near] = n
                    stack.append(near)
    return label


def drop_small(label, size):
    keep = np.bincount(label.ravel()) >= size
    keep[0] = False
    return np.where(keep[label], label, 0)


def heap_flood(value, foreground, seed):
    """Seeds grow in the order of (-value, age); a voxel is labelled when it is pushed."""
    label = np.where(foreground, seed, 0)
    heap = [(-int(value[tuple(v)]), age, tuple(v)) for age, v in enumerate(np.argwhere(label))]
    age = len(heap)
    heapq.heapify(heap)
    while heap:
        _, _, voxel = heapq.heappop(heap)
        for near in neighbours(voxel, value.shape, FACES):
            if foreground[near] and not label[near]:
                label[near] = label[voxel]
                heapq.heappush(heap, (-int(value[near]), age, near))
                age += 1
    return label


def canonical(label):
    """Numbers 1..n in raster order of the first voxel."""
    names, first = np.unique(label, return_index=True)
    order = names[np.argsort(first)]
    number = {name: k for k, name in enumerate((n for n in order if n), 1)} | {0: 0}
    return np.vectorize(number.get, otypes=[np.int64])(label)


def passes(channel, threshold):
    return channel > int(255 * threshold)


def watershed(prediction, seed, foreground, min_seed_size, min_size):
    """What the seeded path gives for masks already made."""
    seeds = drop_small(label_26(seed), min_seed_size)
    label = heap_flood(prediction[0], foreground, seeds)
    return canonical(drop_small(label, min_size))


def widen(label, reach):
    """Grey dilation in plane: the largest number within reach."""
    out = label.copy()
    ny, nx = label.shape[1:]
    for z, y, x in np.argwhere(label):
        rows = slice(max(0, y - reach[0]), min(ny, y + reach[0] + 1))
        columns = slice(max(0, x - reach[1]), min(nx, x + reach[1] + 1))
        out[z, rows, columns] = np.maximum(out[z, rows, columns], label[z, y, x])
    return out


def to_neighbors(label, size):
    """Small instances, in ascending order, become the neighbour with most contact in plane."""
    label = label.copy()
    for name in np.unique(label[label > 0]):
        mine = label == name
        if mine.sum() < size:
            ring = ndimage.binary_dilation(mine, np.ones((1, 3, 3))) & ~mine & (label > 0)
            label[mine] = np.bincount(label[ring]).argmax() if ring.any() else 0
    return label


def edge_list(affinities, offsets):
    """(i, j, value) of every edge between voxels i and j of the raveled volume."""
    shape = affinities.shape[1:]
    number = np.arange(np.prod(shape)).reshape(shape)
    parts = []
    for channel, offset in zip(affinities, offsets, strict=True):
        here = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(offset, shape, strict=True))
        there = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(offset, shape, strict=True))
        parts.append([a.ravel() for a in (number[here], number[there], channel[here])])
    return [np.concatenate(field) for field in zip(*parts, strict=True)]


def components_of_edges(i, j, shape):
    """Components of a graph of voxels; those without an edge are 0."""
    size = int(np.prod(shape))
    graph = sparse.coo_array((np.ones(i.size, bool), (i, j)), (size, size))
    label = sparse.csgraph.connected_components(graph, directed=False)[1] + 1
    label[~np.isin(np.arange(size), np.concatenate([i, j]))] = 0
    return canonical(label.reshape(shape))


def agglomerate(affinities, offsets, cut, fragment, merge):
    """Mean-affinity agglomeration of the whole volume, components disregarded."""
    shape = affinities.shape[1:]
    i, j, value = edge_list(affinities, offsets)
    foreground = components_of_edges(i[value > cut], j[value > cut], shape).ravel() > 0
    holds = (value > max(cut, fragment)) & foreground[i] & foreground[j]
    here = np.flatnonzero(foreground)
    region = components_of_edges(
        np.concatenate([i[holds], here]), np.concatenate([j[holds], here]), shape
    ).ravel()
    graph = {}
    for a, b, v in zip(region[i], region[j], value.astype(int), strict=True):
        if a and b and a != b:
            total, count = graph.get((min(a, b), max(a, b)), (0, 0))
            graph[min(a, b), max(a, b)] = (total + v, count + 1)
    graph = {pair: (*graph[pair], rank) for rank, pair in enumerate(sorted(graph))}
    while any(total > merge * count for total, count, _ in graph.values()):
        a, b = min(graph, key=lambda pair: (-graph[pair][0] / graph[pair][1], graph[pair][2]))
        del graph[a, b]
        region[region == b] = a
        for pair in [pair for pair in graph if b in pair]:
            other = pair[0] if pair[1] == b else pair[1]
            total, count, rank = graph.pop(pair)
            key = (min(a, other), max(a, other))
            if key in graph:
                total, count = total + graph[key][0], count + graph[key][1]
                rank = min(rank, graph[key][2])
            graph[key] = (total, count, rank)
    return canonical(region.reshape(shape))


def stack_slices(label, least):
    """Labels of single slices joined through the volume, one offer a slice instance."""
    continues = {}
    for here, after in pairwise(label):
        offers = {}
        for a in np.unique(here[here > 0]):
            reach = [b for b in np.unique(after[here == a]) if b]
            best = [(overlap(here == a, after == b), -b) for b in reach]
            if best and max(best)[0] >= least:
                seed_overlap, b = max(best)
                offers.setdefault(-b, []).append((seed_overlap, -a))
        continues |= {b: -max(offer)[1] for b, offer in offers.items()}
    joined = label.copy()
    for b in np.unique(label[label > 0]):
        root = b
        while root in continues:
            root = continues[root]
        joined[label == b] = root
    return joined


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()
