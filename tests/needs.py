"""Tools that some tests need: skipped where they are not installed, except in CI, where everything must be."""

import os
import shutil
from pathlib import Path

import pytest

THOROUGH = "THOROUGH" in os.environ
"""Whether the long forms run (`make thorough`)."""
POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")


def needs(present: bool, what: str) -> pytest.MarkDecorator:
    """A mark for tests; in CI it skips nothing, so a missing tool fails them."""
    return pytest.mark.skipif(not present and not os.environ.get("CI"), reason=f"{what} is not installed")


needs_chromium = needs(shutil.which("chromium") is not None, "chromium")
needs_postgres_15 = needs((POSTGRES_15 / "postgres").exists(), "Debian's postgresql-15")
needs_promtool = needs(shutil.which("promtool") is not None, "promtool (of Debian's prometheus)")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
