from django.urls import path
from room import views

urlpatterns = [
    path("", views.page),
    path("messages", views.messages),
    path("events", views.events),
]
