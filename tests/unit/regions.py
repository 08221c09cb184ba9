"""Recovery states for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fusevol.recovery.region import Region


@contextmanager
def new_region() -> Iterator[Region]:
    """Provide an empty recovery state."""
    region = Region.create()
    try:
        yield region
    finally:
        os.close(region.fd)
