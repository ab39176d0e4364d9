"""Instructions that the CuTe DSL has no plain call for, a line of PTX each, and waits and arrivals on mbarriers."""

import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.arch import inline_ptx


def copy_word_async(shared: cute.Pointer, source: cute.Pointer, bytes_read: Int32) -> None:
    """cp.async of 4 bytes; what lies past `bytes_read` (0 or 4) is filled with zeros and not read."""
    inline_ptx("cp.async.ca.shared.global [{$r0}], [{$r1}], 4, {$r2};", read_only_args=[shared, source, bytes_read])


def wait_for_own_copies() -> None:
    """Until all cp.async of this thread are in shared memory."""
    inline_ptx("cp.async.wait_all;")


def store_matrices(shared: Int32, registers: list[Int32], *, transposed: bool) -> None:
    """stmatrix: two or four 8x8 matrices of 16-bit elements; lane 8 q + r gives the address of row r of matrix q."""
    count = len(registers)
    fields = ", ".join(f"{{$r{1 + index}}}" for index in range(count))
    trans = ".trans" if transposed else ""
    inline_ptx(
        f"stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [{{$r0}}], {{{fields}}};",
        read_only_args=[shared, *registers],
    )


def keep(value: Int32) -> Int32:
    """`value` in a register of its own. The compiler would compute it anew wherever it is used, from the thread's index
    and by way of slow reads of special registers; it can't what another lane might have sent."""
    return cute.arch.shuffle_sync(value, cute.arch.lane_idx())
