"""The demo's own tests: `python manage.py test`, on SQLite or on the database of DATABASE_URL."""

import io
import re
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import connection
from django.test import Client, TestCase, override_settings
from django.urls import reverse

from board.forms import BYTES_MAX
from board.models import Note, Upload


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (1).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


class BoardCase(TestCase):
    def setUp(self) -> None:
        cache.delete_many(["digest", "first-asked"])
        media = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, media)
        self.enterContext(override_settings(MEDIA_ROOT=media))
        self.media = Path(media)


class Notes(BoardCase):
    def test_a_note_is_written_and_shown(self) -> None:
        answer = self.client.post("/", {"author": "Ada", "text": "<b>Hello</b>", "colour": "mint"}, follow=True)
        self.assertContains(answer, "&lt;b&gt;Hello&lt;/b&gt;")
        self.assertContains(answer, "Your note is on the board.")
        assert Note.objects.get().author == "Ada"

    def test_an_incomplete_note_is_refused_where_it_lacks(self) -> None:
        answer = self.client.post("/", {"author": "", "text": "x" * 501, "colour": "black"})
        assert set(answer.context["form"].errors) == {"author", "text", "colour"}
        assert not Note.objects.exists()

    def test_a_form_of_another_site_is_refused(self) -> None:
        strict = Client(enforce_csrf_checks=True)
        assert strict.post("/", {"author": "A", "text": "b", "colour": "sand"}).status_code == 403
        strict.get("/")
        form = {"author": "A", "text": "b", "colour": "sand", "csrfmiddlewaretoken": strict.cookies["csrftoken"].value}
        port = {"host": "localhost:8080", "origin": "http://localhost:8080"}
        assert strict.post("/", form, headers=port).status_code == 302

    def test_pinned_notes_stay_on_top(self) -> None:
        Note.objects.create(author="a", text="old", pinned=True)
        Note.objects.create(author="b", text="new")
        assert [note.text for note in self.client.get("/").context["notes"]] == ["old", "new"]

    def test_an_empty_board_is_seeded_once(self) -> None:
        call_command("demo_seed", stdout=io.StringIO())
        call_command("demo_seed", stdout=io.StringIO())
        assert Note.objects.count() == 4


class Whoami(BoardCase):
    def test_it_says_what_belongs_to_the_site(self) -> None:
        Note.objects.create(author="a", text="b")
        with self.settings(SITE_NAME="blog"):
            first = self.client.get("/whoami").json()
        assert list(first) == [
            "site",
            "database",
            "cache_prefix",
            "notes",
            "uploads",
            "cached_value",
            "python",
            "django",
        ]
        assert (first["site"], first["notes"], first["uploads"]) == ("blog", 1, 0)
        assert first["database"] == str(connection.settings_dict["NAME"])
        assert first["cached_value"].startswith("blog, first asked at ")
        assert self.client.get("/whoami").json()["cached_value"] == first["cached_value"]

    def test_the_first_page_shows_it(self) -> None:
        with self.settings(SITE_NAME="blog", ALLOWED_HOSTS=["*"]):
            answer = self.client.get("/", headers={"host": "blog.localhost:8080"})
        self.assertContains(answer, '<dd id="site">blog</dd>')
        self.assertContains(answer, "blog.localhost:8080")

    def test_other_pages_are_not_found(self) -> None:
        self.assertContains(self.client.get("/absent"), "There is nothing here", status_code=404)


class Numbers(BoardCase):
    def test_they_come_from_the_cache_until_it_forgets(self) -> None:
        Note.objects.create(author="Ada", text="moths and more moths")
        first = self.client.get("/numbers/")
        assert first["X-Cache"] == "miss"
        self.assertContains(first, "computed just now")
        Note.objects.create(author="Grace", text="another")
        second = self.client.get("/numbers/")
        assert second["X-Cache"] == "hit"
        self.assertContains(second, "from the cache")
        assert second.context["digest"] == first.context["digest"]
        self.assertRedirects(self.client.post("/numbers/"), "/numbers/", fetch_redirect_response=False)
        third = self.client.get("/numbers/")
        assert (third["X-Cache"], third.context["digest"]["notes"]) == ("miss", 2)

    def test_they_are_right(self) -> None:
        Note.objects.create(author="Ada", text="moths and more moths")
        Note.objects.create(author="Ada", text="Moths")
        digest = self.client.get("/numbers/").context["digest"]
        assert (digest["notes"], digest["authors"], digest["words"]) == (2, 1, 4)
        assert digest["commonest"][0] == {"name": "moths", "count": 3, "percent": 100}

    def test_an_empty_board_has_numbers_too(self) -> None:
        self.assertContains(self.client.get("/numbers/"), "Nothing to count yet.")


class Files(BoardCase):
    def store(self, name: str, content: bytes) -> Any:
        return self.client.post("/files/", {"title": "a file", "file": SimpleUploadedFile(name, content)})

    def test_images_and_text_are_stored_under_names_of_our_own(self) -> None:
        self.assertRedirects(self.store("../../evil.html", png()), "/files/")
        self.assertRedirects(self.store("notes.exe", "grüße".encode()), "/files/")
        names = [upload.file.name for upload in Upload.objects.order_by("pk")]
        assert re.search(r"\Auploads/[0-9a-f]{16}\.png\Z", names[0])
        assert re.search(r"\Auploads/[0-9a-f]{16}\.txt\Z", names[1])
        assert (self.media / names[0]).read_bytes() == png()
        self.assertContains(self.client.get("/files/"), f"/media/{names[1]}")

    def test_other_content_is_refused_whatever_it_is_called(self) -> None:
        answer = self.store("picture.png", b"\x7fELF\0\0")
        self.assertContains(answer, "Only PNG, JPEG, GIF and WebP images and plain text are taken.")
        assert list(self.media.rglob("*")) == []

    def test_a_file_that_is_too_large_is_refused(self) -> None:
        self.assertContains(self.store("a.txt", b"a" * (BYTES_MAX + 1)), "A file may have 2 MB")
        self.assertRedirects(self.store("a.txt", b"a" * BYTES_MAX), "/files/")

    def test_the_file_goes_with_its_row(self) -> None:
        self.store("a.txt", b"a")
        upload = Upload.objects.get()
        path = Path(upload.file.path)
        assert path.exists()
        upload.delete()
        assert not path.exists()


class Admin(BoardCase):
    def setUp(self) -> None:
        super().setUp()
        self.client.force_login(User.objects.create_superuser("admin"))

    def test_every_list_and_form_opens(self) -> None:
        note = Note.objects.create(author="a", text="b")
        self.client.post("/files/", {"title": "t", "file": SimpleUploadedFile("a.txt", b"a")})
        for name in ("note", "upload"):
            assert self.client.get(reverse(f"admin:board_{name}_changelist")).status_code == 200
            assert self.client.get(reverse(f"admin:board_{name}_add")).status_code == 200
        self.assertContains(self.client.get(reverse("admin:board_note_change", args=[note.pk])), "Pinned")
        upload = Upload.objects.get()
        change = reverse("admin:board_upload_change", args=[upload.pk])
        self.assertRedirects(self.client.post(change, {"title": "renamed"}), reverse("admin:board_upload_changelist"))
        upload.refresh_from_db()
        assert (upload.title, upload.size) == ("renamed", 1)

    def test_notes_are_pinned_from_the_list(self) -> None:
        note = Note.objects.create(author="a", text="b")
        self.client.post(
            reverse("admin:board_note_changelist"), {"action": "pin", "_selected_action": [note.pk]}, follow=True
        )
        note.refresh_from_db()
        assert note.pinned
