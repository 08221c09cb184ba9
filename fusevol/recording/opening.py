"""Opening the log of a mount: its format and its chain, and what if there can be no chain."""

import logging

from fusevol.errors import FusevolError
from fusevol.model import OnLogFailure
from fusevol.options.config import MountConfig
from fusevol.proof import keys
from fusevol.proof.sealer import Sealer, volume_in_records
from fusevol.record.formats import encoder
from fusevol.recording.writer import LogWriter
from fusevol.recovery.log_cells import SEQ

logger = logging.getLogger(__name__)


def open_log(config: MountConfig, cells: memoryview | None = None) -> LogWriter:
    """Return the writer of a mount's log.

    Args:
        config: of the mount.
        cells: those of an earlier writer of this log, or of a new mount (`LogWriter`).

    Raises:
        NotFoundError, NotPermittedError, FusevolError: the log cannot be opened or chained.
    """
    logging_ = config.logging
    chain = None
    if logging_.chain:
        try:
            chain = Sealer(keys.load_or_make(), config.log, volume_in_records(config.name))
        except FusevolError as error:
            # A mount that is in use goes on, as it does when its log cannot be written.
            is_taken_over = cells is not None and cells[SEQ] > 0
            if config.on_log_failure is OnLogFailure.DENY or not is_taken_over:
                raise
            logger.error("access log %s continues without hashes: %s", config.log, error)
    return LogWriter(
        config.log, config.name, config.on_log_failure, cells, encoder(logging_.format), chain
    )
