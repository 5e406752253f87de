"""The conversion engine: tables of rules between PyTorch tensors and leaves of a parameter tree.

A rule names a tensor of the checkpoint, the leaf it fills and how the layout changes. `{i}` stands
for a layer number; such tensors are stacked along a new first axis of one leaf, in order. Every
tensor and every leaf must be used exactly once: all violations are found first and raised together.

    TensorSource --bind(rules)--> Leaf, Leaf, ...    each reads its own tensors when asked
    leaves --LeafTensors(rules)--> TensorSource      the way back, by the same rules

Nothing is read while binding, and a leaf reads one tensor at a time into the array it returns, so
the host never holds more than one leaf (one layer stack) and one tensor.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from pusa_jax.convert.violations import ConversionError, one_line
from pusa_jax.weights.finite import nonfinite

Shape = tuple[int, ...]
Index = tuple[slice, ...]
"""One slice per axis: the part of an array that is wanted."""

COPY_BLOCK = 256
"""Columns per step of a transposing copy; about 5 times faster than NumPy's own order."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it."""

    shape: Shape
    dtype: np.dtype


@runtime_checkable
class TensorSource(Protocol):
    """Named tensors in PyTorch layout that are read one at a time."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype of every tensor."""
        ...

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """Reads one tensor, or the part of it that `index` selects."""
        ...


@dataclasses.dataclass(frozen=True)
class Transform:
    """A reversible change of memory layout.

    Attributes:
      to_leaf: PyTorch layout -> pusa_jax layout, for one tensor (without the stacked layer axis).
      to_torch: the exact inverse.
      to_torch_index: the part of the tensor that a part of the leaf comes from, where one is the
        transform of the other; None if the whole tensor has to be read for any part.
    """

    to_leaf: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]
    to_torch_index: Callable[[Index], Index] | None = None


SAME = Transform(lambda x: x, lambda x: x, lambda index: index)
LINEAR = Transform(np.transpose, np.transpose, lambda index: index[::-1])
"""Linear weight (out, in) <-> kernel (in, out)."""
DROP_FIRST = Transform(lambda x: x[0], lambda x: x[None], lambda index: (slice(None), *index))
"""A leading axis of length 1 in the checkpoint, none in the leaf."""


NUMBERS = {"{i}": (1, 0), "{2i}": (2, 0), "{2i+1}": (2, 1)}
"""What stands for the number of a layer -> its step from one row of a leaf to the next, its first;
the second and third are of layers that alternate and are two stacks here."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
      source: tensor name in the checkpoint; may hold one key of `NUMBERS`.
      target: slash-separated path of the leaf it fills, as in `blocks/self_attn/q/kernel`.
      transform: change of layout.
      part: (which, of how many) equal parts of the tensor's first axis; its other parts are rules
        of their own, as for queries, keys and values in one tensor.
      others: rules for the same leaf, for checkpoints that name or shape the tensor otherwise; what
        is written is as this rule says.
    """

    source: str
    target: str
    transform: Transform = SAME
    part: tuple[int, int] = (0, 1)
    others: tuple["Rule", ...] = ()

    @property
    def is_stacked(self) -> bool:
        """Whether the rule names one tensor per layer."""
        return any(mark in self.source for mark in NUMBERS)

    def as_in(self, tensors: Mapping[str, TensorInfo], leaf: Shape) -> "Rule":
        """This rule or that of the others whose tensor is there, if possible in its shape."""
        rows = (
            [(rule, rule.names(leaf)[:1]) for rule in (self, *self.others)] if self.others else []
        )
        there = [(rule, tensors[name]) for rule, (name,) in rows if name in tensors]
        fit = (rule for rule, tensor in there if tensor.shape == rule.tensor_shape(leaf))
        return next(fit, there[0][0] if there else self)

    def tensor_shape(self, leaf: Shape) -> Shape:
        """Shape in the checkpoint of the tensor, or of each of the tensors, that fill the leaf."""
        one = leaf[1:] if self.is_stacked else leaf
        shape = self.transform.to_torch(np.empty(one, np.int8)).shape
        _, parts = self.part
        return shape if parts == 1 else (parts * shape[0], *shape[1:])

    def tensor_index(self, index: Index, shape: Shape) -> Index:
        """Of the part of a tensor that this rule takes, in the tensor of `shape`."""
        which, parts = self.part
        rows = range(shape[0])[which * (shape[0] // parts) :][: shape[0] // parts][index[0]]
        return (slice(rows.start, rows.stop, rows.step), *index[1:])

    def names(self, leaf: Shape) -> list[str]:
        """Names of the tensors that fill a leaf of this shape, in layer order."""
        for mark, (step, first) in NUMBERS.items():
            if mark in self.source:
                return [self.source.replace(mark, str(step * i + first)) for i in range(leaf[0])]
        return [self.source]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of the model, to be read from the tensors of a checkpoint.

    Attributes:
      path: slash-separated path in the parameter tree.
      shape: shape of the leaf, with the layer axis first if it is stacked.
      dtype: dtype it is returned in.
      rule: says which tensors fill it, and how.
      source: where they are.
    """

    path: str
    shape: Shape
    dtype: np.dtype
    rule: Rule
    source: TensorSource

    def read(self, index: Index | None = None) -> np.ndarray:
        """Reads the leaf, or the part that `index` selects, from its tensors into a new array.

        A value that is NaN or infinite is a ValueError that names file and tensor.

        As a callback of `jax.make_array_from_callback` it fills a sharded array with every device
        reading its own part: only the layers concerned, and only the bytes concerned where the
        transform allows it.
        """
        index = tuple(slice(None) for _ in self.shape) if index is None else index
        names = self.rule.names(self.shape)
        if not self.rule.is_stacked:
            whole = _copied(self._part(names[0], index), self.dtype)
            self._check_finite(names[0], whole)
            return whole
        names = names[index[0]]
        sizes = [len(range(n)[s]) for n, s in zip(self.shape, index, strict=True)]
        out = np.empty(sizes, self.dtype)
        for layer, name in enumerate(names):
            _copy(self._part(name, index[1:]), out[layer])
            self._check_finite(name, out[layer])
        return out

    def _check_finite(self, name: str, array: np.ndarray) -> None:
        if count := nonfinite(array):
            file_of = getattr(self.source, "file_of", None)
            raise ValueError(
                f"{f'{file_of(name)}: ' if file_of else ''}{count} of {array.size} values of "
                f"{one_line(name)} are NaN or infinite in {array.dtype}; fetch the file again."
            )

    def __getitem__(self, rows: slice | EllipsisType) -> np.ndarray:
        """Reads some layers of a stack, or all of the leaf for `...`; see `checkpoint.Leaf`."""
        if isinstance(rows, EllipsisType):
            return self.read()
        return self.read((rows, *(slice(None) for _ in self.shape[1:])))

    def _part(self, name: str, index: Index) -> np.ndarray:
        transform = self.rule.transform
        if all(s == slice(None) for s in index):
            return transform.to_leaf(self._tensor(name))
        if transform.to_torch_index is None:
            return transform.to_leaf(self._tensor(name))[index]
        return transform.to_leaf(self._tensor(name, transform.to_torch_index(index)))

    def _tensor(self, name: str, index: Index | None = None) -> np.ndarray:
        """The rule's part of a tensor, or what `index` selects of that part."""
        if self.rule.part == (0, 1):
            return self.source.read(name, index)
        shape = self.source.tensors[name].shape
        index = tuple(slice(None) for _ in shape) if index is None else index
        return self.source.read(name, self.rule.tensor_index(index, shape))


def _copy(x: np.ndarray, out: np.ndarray) -> None:
    """out[...] = x, in an order that suits the cache when x is a transposed matrix."""
    if x.ndim != 2 or x.flags.c_contiguous:
        out[...] = x
        return
    for start in range(0, x.shape[1], COPY_BLOCK):
        out[:, start : start + COPY_BLOCK] = x[:, start : start + COPY_BLOCK]


def _copied(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    out = np.empty(x.shape, dtype)
    _copy(x, out)
    return out


def shape_of(source: TensorSource, name: str, rank: int) -> Shape:
    """Shape of a tensor from which the size of a model is inferred.

    Raises:
      ValueError: it is missing, empty or has another number of axes.
    """
    shape = source.tensors[name].shape if name in source.tensors else ()
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"{name} must be there with {rank} axes, got {list(shape) or 'nothing'}.")
    return shape


def bind(
    source: TensorSource,
    rules: Sequence[Rule],
    abstract: Mapping[str, jax.ShapeDtypeStruct],
    *,
    ignored: Mapping[str, str] | None = None,
    dtype: DTypeLike | None = None,
) -> list[Leaf]:
    """Finds the tensors of every leaf and checks names, shapes and dtypes; reads nothing.

    Args:
      source: the checkpoint.
      rules: the table; `{i}` counts from 0 to the leaf's first axis.
      abstract: path -> shape of every leaf of the model (their dtypes do not matter).
      ignored: tensor name (may hold `{i}`) -> reason why it may be there and is not used.
      dtype: floating dtype to convert to; None keeps what the checkpoint stores.

    Raises:
      ConversionError: a tensor is missing, misshaped, not of a floating type or used by no rule; a
        leaf is filled by no rule or by two; without `dtype`, the layers of a leaf differ in dtype
        or are stored with 1 or 8 bytes per value.
    """
    tensors = source.tensors
    shapes = {path: tuple(leaf.shape) for path, leaf in abstract.items()}
    rules = [r.as_in(tensors, shapes[r.target]) if r.target in shapes else r for r in rules]
    wrong = [("table", problem) for problem in _table_problems(rules, shapes)]
    used: set[str] = set()
    leaves = []
    for rule in rules:
        if rule.target not in shapes:
            continue
        shape = shapes[rule.target]
        names, expected = rule.names(shape), rule.tensor_shape(shape)
        used.update(names)
        found = {name: tensors[name] for name in names if name in tensors}
        lacking = [name for name in names if name not in found]
        misshaped = {name: t for name, t in found.items() if t.shape != expected}
        stored = {t.dtype for t in found.values()}
        wrong += [("missing", f"{n} {list(expected)} for {rule.target}") for n in lacking]
        wrong += [
            ("wrong shape", f"{n} is {list(t.shape)}, must be {list(expected)}")
            for n, t in misshaped.items()
        ]
        wrong += [("wrong dtype", p) for p in _dtype_problems(found, rule.target, dtype)]
        if stored:
            kept = jnp.dtype(dtype) if dtype is not None else min(stored, key=str)
            leaves.append(Leaf(rule.target, shape, kept, rule, source))
    skipped = [re.escape(name).replace(r"\{i\}", r"\d+") for name in ignored or ()]
    extra = [n for n in tensors if n not in used and not any(re.fullmatch(s, n) for s in skipped)]
    wrong += [("unexpected", f"{n} {list(tensors[n].shape)}") for n in extra]
    if wrong:
        raise ConversionError(wrong)
    return leaves


def _table_problems(rules: Sequence[Rule], shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Leaves and tensor names that do not have exactly one rule."""
    targets = Counter(rule.target for rule in rules)
    sources: dict[str, list[tuple[int, int]]] = {}
    for rule in rules:
        for name in rule.names(shapes[rule.target]) if rule.target in shapes else ():
            sources.setdefault(name, []).append(rule.part)
    for name, parts in sources.items():
        count = parts[0][1]
        if sorted(parts) != [(i, count) for i in range(count)]:
            what = f"{len(parts)} rules" if count == 1 else f"rules for the parts {sorted(parts)}"
            yield f"tensor {name} has {what}"
    yield from (f"leaf {path} has {n} rules" for path, n in targets.items() if n > 1)
    yield from (f"leaf {path} has no rule" for path in shapes if path not in targets)
    yield from (f"the model has no leaf {path}" for path in targets if path not in shapes)


def _dtype_problems(
    found: Mapping[str, TensorInfo], target: str, dtype: DTypeLike | None
) -> Iterator[str]:
    """Dtypes of one leaf's tensors that cannot be stored as a leaf of `dtype`."""
    for name, tensor in found.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            yield f"{name} is {tensor.dtype}, must be a floating type"
        elif dtype is None and tensor.dtype.itemsize not in (2, 4):
            yield f"{name} is {tensor.dtype}; convert with dtype float32 or bfloat16"
    mixed = sorted({str(t.dtype) for t in found.values()})
    if dtype is None and len(mixed) > 1:
        yield f"layers of {target} are stored as {' and '.join(mixed)}; convert with one dtype"


def load(
    source: TensorSource,
    rules: Sequence[Rule],
    abstract: Mapping[str, jax.ShapeDtypeStruct],
    *,
    ignored: Mapping[str, str] | None = None,
    dtype: DTypeLike | None = None,
    place: Callable[[Leaf], jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """Reads a checkpoint into the leaves of a model, leaf by leaf.

    Args:
      source: the checkpoint.
      rules: the table.
      abstract: path -> shape of every leaf.
      ignored: see `bind`.
      dtype: see `bind`.
      place: makes the array of a leaf; default is the whole leaf on the default device. With
        shardings: `lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, leaf.read)`.

    Raises:
      ConversionError: see `bind`.
    """
    place = place or (lambda leaf: jnp.asarray(leaf.read()))
    bound = bind(source, rules, abstract, ignored=ignored, dtype=dtype)
    return {leaf.path: place(leaf) for leaf in bound}


@dataclasses.dataclass(frozen=True)
class LeafTensors:
    """The leaves of a model seen as the tensors of a checkpoint: the way back, tensor by tensor.

    Leaves that are shapes only tell names, shapes and dtypes, and cannot be read.

    Raises:
      ConversionError: leaves and rules do not match one to one.
    """

    leaves: Mapping[str, jax.Array | np.ndarray | jax.ShapeDtypeStruct]
    rules: Sequence[Rule]

    def __post_init__(self):
        shapes = {path: tuple(leaf.shape) for path, leaf in self.leaves.items()}
        if problems := list(_table_problems(self.rules, shapes)):
            raise ConversionError(("table", problem) for problem in problems)

    @functools.cached_property
    def _rows(self) -> dict[str, tuple[list[Rule], int]]:
        """Tensor -> the rules of its parts, in order, and its layer."""
        rows: dict[str, tuple[list[Rule], int]] = {}
        for rule in sorted(self.rules, key=lambda rule: rule.part[0]):
            for layer, name in enumerate(rule.names(tuple(self.leaves[rule.target].shape))):
                rows.setdefault(name, ([], layer))[0].append(rule)
        return rows

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype, in the order of the table."""
        return self._infos

    @functools.cached_property
    def _infos(self) -> Mapping[str, TensorInfo]:
        infos = {
            path: TensorInfo(rule.tensor_shape(tuple(leaf.shape)), np.dtype(leaf.dtype))
            for rule in self.rules
            for path, leaf in [(rule.target, self.leaves[rule.target])]
        }
        return {name: infos[rules[0].target] for name, (rules, _) in self._rows.items()}

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """One tensor in PyTorch layout, contiguous, on the host; `index` selects a part of it."""
        rules, layer = self._rows[name]
        parts = [self._part(rule, name, layer) for rule in rules]
        tensor = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return _copied(tensor if index is None else tensor[index], tensor.dtype)

    def _part(self, rule: Rule, name: str, layer: int) -> np.ndarray:
        leaf = self.leaves[rule.target]
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(f"{rule.target} is a shape without values; {name} cannot be read.")
        return rule.transform.to_torch(_layer(leaf, layer) if rule.is_stacked else np.asarray(leaf))


def _layer(leaf: jax.Array | np.ndarray, layer: int) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf[layer]
    bits = np.dtype(f"uint{8 * leaf.dtype.itemsize}")
    return np.asarray(_bits(leaf, layer, bits)).view(leaf.dtype)


@functools.partial(jax.jit, static_argnums=2)
def _bits(leaf: jax.Array, layer: ArrayLike, bits: DTypeLike) -> jax.Array:
    # As integers: a compiler may compute a slice of bfloat16 in float32, which changes NaNs.
    return jax.lax.bitcast_convert_type(leaf, bits)[layer]


def dump(
    leaves: Mapping[str, jax.Array | np.ndarray], rules: Sequence[Rule]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of a checkpoint from the leaves of a model: the exact inverse of `load`.

    Raises:
      ConversionError: leaves and rules do not match one to one.
    """
    source = LeafTensors(leaves, rules)
    for name in source.tensors:
        yield name, source.read(name)
