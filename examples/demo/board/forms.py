from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile

from board.models import Note, Upload

BYTES_MAX = 2 * 1024 * 1024
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"GIF87a": "gif", b"GIF89a": "gif"}


class NoteForm(forms.ModelForm):
    class Meta:
        model = Note
        fields = ["author", "text", "colour"]
        widgets = {
            "author": forms.TextInput(attrs={"placeholder": "Your name", "autocomplete": "name"}),
            "text": forms.Textarea(attrs={"rows": 4, "placeholder": "What should everybody know?"}),
            "colour": forms.RadioSelect,
        }


class UploadForm(forms.ModelForm):
    class Meta:
        model = Upload
        fields = ["title", "file"]
        widgets = {"title": forms.TextInput(attrs={"placeholder": "What is it?"})}

    def clean_file(self) -> UploadedFile:
        """Refuse what is too large or neither an image nor plain text, by its content: names and headers can lie."""
        file: UploadedFile = self.cleaned_data["file"]
        if "file" not in self.changed_data:
            return file
        if (file.size or 0) > BYTES_MAX:
            raise ValidationError(f"A file may have {BYTES_MAX // 1024 // 1024} MB; this one has more.")
        self.instance.kind = kind_of(file)
        self.instance.size = file.size
        return file


def kind_of(file: Any) -> str:
    """Return png, jpg, gif, webp or txt. Raises ValidationError for anything else (SVG and HTML could run scripts)."""
    file.seek(0)
    content = file.read()
    file.seek(0)
    for signature, kind in _SIGNATURES.items():
        if content.startswith(signature):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValidationError("Only PNG, JPEG, GIF and WebP images and plain text are taken.")
    return "txt"
