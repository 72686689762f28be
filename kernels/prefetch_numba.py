"""Memory asked for before it is needed, so that compiled loops do not wait for it."""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_LINE = 64
"""Bytes that come together."""


@intrinsic
def _prefetch(typing_context, array, offset):
    """Ask for the line of the cache that holds a byte of an array's memory (`llvm.prefetch`)."""

    def write_code(context, builder, signature, values):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        place = builder.gep(builder.bitcast(data, byte), [values[1]])
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
        # to be read, kept close, and data
        builder.call(function, [place, *(ir.Constant(number, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.int64), write_code


@numba.njit(cache=True, nogil=True)
def ask_for_row(array, row, first, end):
    """Ask for the entries [first, end) of a row, unless there is no such row.

    Args:
        array: [rows, columns] or [rows, columns, channels], contiguous.
        row: Any number.
        first: Column.
        end: Column behind the last one.
    """
    if 0 <= row < array.shape[0]:
        begin = row * array.strides[0]
        for offset in range(
            begin + first * array.strides[1], begin + end * array.strides[1] + _LINE - 1, _LINE
        ):
            _prefetch(array, np.int64(offset))
