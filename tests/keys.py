"""Keys of subjects held in memory, for tests that need no database."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.kernel.errors import SubjectErased
from domain.kernel.personal import Sealed, SealedText, Shown
from infrastructure.subject_keys import KEY_BITS, open_under, seal_under


class HeldKeys:
    """The same seals as in the village; the keys are in a dict, and None in it stands for an erased subject."""

    def __init__(self) -> None:
        self.keys: dict[UUID, bytes | None] = {}

    def seal(self, subject: UUID, text: bytes, place: bytes) -> Sealed:
        key = self.keys.setdefault(subject, AESGCM.generate_key(KEY_BITS))
        if key is None:
            raise SubjectErased(f"subject {subject}")
        return seal_under(key, subject, text, place)

    def open(self, texts: Iterable[SealedText]) -> Mapping[SealedText, Shown]:
        return {text: self._shown(text) for text in texts}

    def _shown(self, text: SealedText) -> Shown:
        key = self.keys.get(text.sealed.subject)
        erased = key is None and text.sealed.subject in self.keys
        return Shown(text.sealed.subject, None if key is None else open_under(key, text), erased)
