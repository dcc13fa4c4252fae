from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from board.models import Note

NOTES = [
    ("Tenantry", "Welcome to {site}! Everything on this board is in a database of its own.", "mint", True),
    ("Ada", "The reading room opens at nine. Bring your own cup.", "sand", False),
    ("Grace", "Found: one moth, in relay 70, panel F. Ask at the desk.", "rose", False),
    ("Linus", "Choir practice moves to Thursday, same room.", "sky", False),
]


class Command(BaseCommand):
    help = "Puts a few notes on an empty board. Does nothing when there are notes."

    def handle(self, **options: Any) -> None:
        if Note.objects.exists():
            self.stdout.write("There are notes already.")
            return
        for author, text, colour, pinned in NOTES:
            text = text.format(site=settings.SITE_NAME)
            Note.objects.create(author=author, text=text, colour=colour, pinned=pinned)
        self.stdout.write(f"{len(NOTES)} notes written.")
