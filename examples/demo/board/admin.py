from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat, truncatechars
from django.utils.html import format_html

from board.forms import UploadForm
from board.models import Note, Upload

admin.site.site_header = f"{settings.SITE_NAME}: notice board"
admin.site.site_title = settings.SITE_NAME


@admin.register(Note)
class NoteAdmin(admin.ModelAdmin):
    list_display = ["excerpt", "author", "colour", "pinned", "created_at"]
    list_editable = ["pinned"]
    list_filter = ["pinned", "colour"]
    search_fields = ["author", "text"]
    date_hierarchy = "created_at"
    readonly_fields = ["created_at"]
    actions = ["pin", "unpin"]

    @admin.display(description="note", ordering="text")
    def excerpt(self, note: Note) -> str:
        return truncatechars(note.text, 45)

    @admin.action(description="Pin to the top")
    def pin(self, request: HttpRequest, notes: QuerySet[Note]) -> None:
        self.message_user(request, f"{notes.update(pinned=True)} pinned.")

    @admin.action(description="Unpin")
    def unpin(self, request: HttpRequest, notes: QuerySet[Note]) -> None:
        self.message_user(request, f"{notes.update(pinned=False)} unpinned.")


@admin.register(Upload)
class UploadAdmin(admin.ModelAdmin):
    form = UploadForm
    list_display = ["title", "kind", "readable_size", "link", "created_at"]
    list_filter = ["kind", "created_at"]
    search_fields = ["title"]
    readonly_fields = ["kind", "readable_size", "created_at"]

    @admin.display(description="size", ordering="size")
    def readable_size(self, upload: Upload) -> str:
        return filesizeformat(upload.size)

    @admin.display(description="file")
    def link(self, upload: Upload) -> Any:
        return format_html('<a href="{}">open</a>', upload.file.url)
