"""Sealed documents open with their key, with no other, and not after an alteration."""

import pytest

from tenantry.sealing import Sealer, SealError, generate_key


def test_a_sealed_document_comes_back_and_hides_its_content() -> None:
    sealer = Sealer([generate_key()])
    sealed = sealer.seal({"database_password": "pw-1"})
    assert "pw-1" not in sealed
    assert sealer.unseal(sealed) == {"database_password": "pw-1"}


def test_a_new_key_in_front_still_opens_what_the_old_one_sealed() -> None:
    old, new = generate_key(), generate_key()
    sealed = Sealer([old]).seal({"a": 1})
    assert Sealer([new, old]).unseal(sealed) == {"a": 1}


@pytest.mark.parametrize(
    "alter", [lambda s: s[:-3], lambda s: s[:40] + ("B" if s[40] == "A" else "A") + s[41:], lambda _: "é"]
)
def test_an_altered_document_is_refused(alter) -> None:
    sealer = Sealer([generate_key()])
    with pytest.raises(SealError):
        sealer.unseal(alter(sealer.seal({"a": 1})))


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(SealError):
        Sealer([generate_key()]).unseal(Sealer([generate_key()]).seal({"a": 1}))


def test_a_malformed_key_is_refused_with_what_a_key_is() -> None:
    with pytest.raises(SealError, match="32 bytes"):
        Sealer(["secret"])
