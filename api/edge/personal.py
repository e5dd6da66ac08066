"""Personal text over GraphQL: opened here and nowhere before, all texts of one answer by one question to the keys."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import strawberry
from strawberry.dataloader import DataLoader

from domain.kernel.personal import SealedText, Shown
from projections.personal import sealed_in, shown_in

from .context import ApiContext


@strawberry.type
class PersonalText:
    """What somebody wrote, sealed in the log under the key of the person it is about. `text` is null once they are
    erased, and while their key is out of reach.
    """

    subject: UUID
    text: str | None
    erased: bool


Loader = DataLoader[SealedText, Shown]


def loader_of(ctx: ApiContext) -> Loader:
    """Gathers what one answer asks for. It remembers nothing: the next question finds what is erased by then."""

    async def load(texts: list[SealedText]) -> list[Shown]:
        keys = ctx.subject_keys
        if keys is None:
            return [Shown(text.sealed.subject, None, erased=False) for text in texts]
        shown = await ctx.in_query_thread(lambda: keys.open(texts))
        return [shown[text] for text in texts]

    return DataLoader(load, cache=False)


async def personal_text(loader: Loader, text: SealedText) -> PersonalText:
    """The node of a sealed text. Who may see the row may read it: the caller has checked."""
    shown = await loader.load(text)
    return PersonalText(subject=shown.subject, text=shown.text, erased=shown.erased)


async def opened_state(loader: Loader, state: Mapping[str, Any], sealed: Mapping[str, SealedText]) -> dict[str, Any]:
    """A stored state with its sealed fields opened."""
    texts = await loader.load_many(list(sealed.values()))
    return shown_in(state, dict(zip(sealed, texts, strict=True)))


__all__ = ["Loader", "PersonalText", "loader_of", "opened_state", "personal_text", "sealed_in"]
