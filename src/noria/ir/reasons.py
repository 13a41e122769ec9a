"""The reasons that `explain` gives, and advice for each: one table for messages and for a page.

``python scripts/what_runs_fast.py`` writes ``docs/what-runs-fast.md`` from it.
"""

from enum import Enum

#: Topics: the choice of a backend, machine code for a loop, its gradient, chunks of steps.
CHOICE, CODE, GRADIENT, CHUNKS = "choice", "code", "gradient", "chunks"


class Reason(Enum):
    """A reason: its topic, its ``text`` with fields for `str.format`, and advice for the user."""

    AS_ASKED = CHOICE, "as asked for", "You set `backend=`."
    FASTEST = CHOICE, "the fastest one on CPUs", "Nothing to do: the loop is machine code."
    ANY_DEVICE = (
        CHOICE,
        "this one runs any cell on any device",
        "The loop is one `jax.lax.scan`. The reasons before this one say why it is not native.",
    )
    NO_LOOP = (
        CHOICE,
        "no array of its state needs a loop",
        "Nothing to do: all steps run at once. Counters and outputs leave the loop; so do delays, "
        "unless it is native.",
    )
    WITHOUT_LOOP = (
        CHOICE,
        "a loop on {device} would launch each step on its own",
        "Nothing to do: it runs as a parallel scan, or as products over chunks of steps.",
    )
    CONSTANT_MATRIX = (
        CHOICE,
        "the next state is affine by a constant matrix, and a loop is its best form on CPUs",
        "Nothing to do. Chunks need powers of the matrix and two passes over the steps. A pass "
        "takes about half the time of the loop, or more.",
    )
    VARIABLE = (
        CHOICE,
        "as the environment variable NORIA_BACKEND asks for",
        "Unset the variable. It is for diagnosis.",
    )

    SIDE_EFFECT = (
        CODE,
        "a step has the side effect {effect}{where}",
        "Return the value as an output, and print it after the call. With the effect the cell runs "
        "as it is, and nothing is hoisted.",
    )
    NONLINEAR_RULE = (
        CODE,
        "{place} is the same in each step, and its derivative rule is not linear",
        "Such a rule, as one that clips a gradient, applies at each step, but the function would "
        "be computed once. Give the rule to the product of the parameter and the state or input. "
        "Layers from `nr.prepare` need no gradient, and are native.",
    )
    NO_CODE = (
        CODE,
        "there is no native code for {name} of {shapes}{where}",
        "The message has the operation and its line. If the next state does not need it, move it "
        "to `output`: it then runs after the loop. If it needs the input only, it already runs "
        "before the loop. Otherwise replace it, or accept a scan.",
    )
    NO_VALUES = (
        CODE,
        "there is no native code for values of {shape}",
        "Use float32, float64 or bfloat16 instead of float16. Take random keys from the argument "
        "`key` instead of the state.",
    )
    TOO_LONG = (
        CODE,
        "the step has {count} operations, and native code is made of at most {most}",
        "Replace loops of Python by operations on whole arrays, or by a `jax.lax.scan`.",
    )
    CONTEXT = (
        CODE,
        "the input is multiplied with a matrix of the context{where}, for all steps at once",
        "Nothing to do: one product for all steps is faster than machine code for each step. The "
        "rest is a scan.",
    )
    COMPLEX = (
        CODE,
        "complex numbers do not become pairs of real ones, because there is no rule for "
        "{name}{where}",
        "Write the operation with real and imaginary parts.",
    )
    NO_STATE = CODE, "there is no state", "Nothing to do: a step without a state has no loop."
    SYMBOLIC = (
        CODE,
        "machine code needs sizes that are numbers, and there is {sizes}",
        "Free sizes of `jax.export` need a scan. Export with numbers for machine code.",
    )
    DEVICE = (
        CODE,
        "the device is not a CPU but {device}",
        "Nothing to do: XLA compiles the scan for the device.",
    )
    PROCESSOR = (
        CODE,
        "there is no native code for a {machine} processor",
        "Nothing to do: the code generator knows AVX-512, AVX2, SSE and NEON.",
    )
    INSTRUCTIONS = (
        CODE,
        "NORIA_NATIVE_ISA={asked!r}; expected one of what this machine has: {names}",
        "Unset the variable, or choose one of these names.",
    )
    XLA_VERSION = (
        CODE,
        "XLA's foreign function interface has version {version}, not 0",
        "Install a version of JAX that Noria supports.",
    )

    OTHER_LOOP = (
        GRADIENT,
        "the {loop} runs on backend scan: {obstacle}",
        "The derivative of the step has an operation without native code. The advice for that "
        "operation holds here too.",
    )
    NO_GRADIENT = (
        GRADIENT,
        "no gradient: {error}",
        "An operation has no derivative rule in JAX. Give it one with `jax.custom_vjp`, or put "
        "`jax.lax.stop_gradient` around it.",
    )

    NO_MATRIX = CHUNKS, "its state has no matrix", "Chunks are for matrix memories only."
    FOLLOWS_MATRIX = (
        CHUNKS,
        "array {index} of its state depends on a matrix of the state",
        "Compute the array from the input and from other vectors.",
    )
    NOT_LINEAR = (
        CHUNKS,
        "{place} is not linear in the matrix",
        "Take the operation off the path from the matrix to the next one, if the model allows. "
        "A cell whose update depends on a norm or an activation of the read has no chunkwise form.",
    )
    WHOLE_READ = (
        CHUNKS,
        "{name} reads a matrix as a whole",
        "Read the matrix by a product with a vector, and apply other operations to the result.",
    )
    TWO_READS = (
        CHUNKS,
        "{name} reads two matrices, or both axes of one",
        "Apply the operation to each product on its own.",
    )
    SCALED_READ = (
        CHUNKS,
        "{name} scales a matrix before it is read",
        "Scale the result of the product instead. Let a decay vary along one axis only.",
    )
    BOTH_AXES = (
        CHUNKS,
        "it reads a matrix along both of its axes",
        "Let keys have the same axis in the update and in the output.",
    )
    DENSE_DECAY = (
        CHUNKS,
        "{name} decays each value of a matrix",
        "Use one decay for the matrix, for each key, or for each value.",
    )
    TWO_MATRICES = (
        CHUNKS,
        "{name} makes one matrix of the state depend on another",
        "Momentum is an example. It has no chunkwise form here.",
    )
    MIXED = (
        CHUNKS,
        "{name} moves or mixes elements of a matrix",
        "A transition may be a decay and products of vectors. A constant matrix is neither.",
    )
    PARTIAL_RESET = (
        CHUNKS,
        "it resets a part of a matrix",
        "Pass `resets=` to the layer: it puts the whole state back.",
    )
    DENSE_UPDATE = (
        CHUNKS,
        "{name} is a matrix, no product of two vectors",
        "Write the update as a product of a key and a value.",
    )
    SCALED_FEEDBACK = (
        CHUNKS,
        "{name} scales the values that a matrix gives",
        "Use one number for each head instead.",
    )
    TWO_SUMS = (
        CHUNKS,
        "it adds a product that is summed over two axes",
        "Merge the two axes with a reshape.",
    )
    FREE_SIZES = CHUNKS, "its sizes are symbolic", "Export with numbers, or on another backend."

    def __init__(self, topic: str, text: str, advice: str):
        self.topic, self.text, self.advice = topic, text, advice

    def __call__(self, **fields: object) -> str:
        """The message."""
        return self.text.format(**fields)
