"""The levels of values: constant, or dependent on parameters, context, input or state."""

#: Nothing; parameters; the context, which is the same in each step of an example; the input of a
#: step; the state.
NUMBER, CONSTANT, CONTEXT, INPUT, STATE = range(5)
