"""What people leave on the board: notes and files."""

import secrets
from typing import Any

from django.db import models
from django.db.models.signals import post_delete
from django.dispatch import receiver


class Note(models.Model):
    """A few words by anybody. The pinned ones stay on top."""

    class Colour(models.TextChoices):
        SAND = "sand"
        MINT = "mint"
        SKY = "sky"
        ROSE = "rose"

    author = models.CharField(max_length=60)
    text = models.TextField(max_length=500)
    colour = models.CharField(max_length=8, choices=Colour.choices, default=Colour.SAND)
    pinned = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-pinned", "-created_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.author}: {self.text[:40]}"


def stored_name(upload: "Upload", _original: str) -> str:
    """Where a file is kept: a name nobody chose, with the ending that belongs to its checked type."""
    return f"uploads/{secrets.token_hex(8)}.{upload.kind}"


class Upload(models.Model):
    """A file in the media directory of the site."""

    IMAGES = ("png", "jpg", "gif", "webp")

    title = models.CharField(max_length=80)
    file = models.FileField(upload_to=stored_name)
    kind = models.CharField(max_length=8, editable=False)
    size = models.PositiveIntegerField(editable=False, help_text="Bytes")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at", "-pk"]

    def __str__(self) -> str:
        return self.title

    @property
    def is_image(self) -> bool:
        return self.kind in self.IMAGES


@receiver(post_delete, sender=Upload)
def delete_file(instance: Upload, **_: Any) -> None:
    """A row that goes takes its file with it."""
    instance.file.delete(save=False)
