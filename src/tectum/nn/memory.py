"""Allocator setting that keeps the memory of large temporaries inside the process.

The C library on Linux gives every large block back to the operating system as soon as it is free, and the next
operation has to fetch, clear and map it again: with networks of many channels at full resolution this page-fault work
takes as long as the arithmetic. Inference avoids large blocks (`tectum.nn.stages`); training cannot.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Tell glibc's allocator to keep freed memory for the rest of this process; True where that worked.

    >>> keep_memory() in (True, False)
    True
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(option, value) for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**27))
    )
