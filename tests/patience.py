"""How long tests wait for what has to come."""

from typing import Final

PATIENCE_S: Final = 60.0
"""Long enough on a machine that is seven times as busy as it has processors.

Who waits goes on as soon as it has come, so it costs nothing. What must not come, or has to be
there at once, is no matter of patience.
"""

PROMPT_S: Final = 20.0
"""What comes within this time did not wait for something that takes longer, or for ever."""
