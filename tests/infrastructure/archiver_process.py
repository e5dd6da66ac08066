"""Archives with one fact a file, so that it can be killed between any two: `... DATABASE_URL FOLDER`."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from domain.kernel.catalogue import closing_topics
from infrastructure import archiver
from infrastructure.archive import archive_store
from infrastructure.database import Database

if __name__ == "__main__":
    vars(archiver)["MAX_FILE_FACTS"] = 1
    with Database(sys.argv[1]) as database:
        archiver.archive_closed(
            database, archive_store(None, Path(sys.argv[2])), closing_topics(), datetime(2100, 1, 1, tzinfo=UTC)
        )
