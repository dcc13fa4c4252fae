"""What was said."""

from django.db import models


class Message(models.Model):
    text = models.CharField(max_length=500)
    said_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.text
