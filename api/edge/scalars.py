"""The scalars of the schema that JSON's own types cannot tell apart."""

from typing import NewType

Position = NewType("Position", int)
"""A position in the event log; a JSON number, exact to 2^53."""

Grains = NewType("Grains", int)
"""An amount of money in grains; a decimal string, since not every client has 64-bit integers."""

Milliseconds = NewType("Milliseconds", int)
"""A duration; a JSON number, exact to 2^53 (GraphQL's Int ends at 25 days)."""
