"""PURE: the pages that nginx shows by itself, as named places of its configuration."""


def render_pages() -> str:
    """Return the named places; their words are fixed, nothing of a request gets into them."""

    def page(name: str, status: int, title: str, text: str, headers: str) -> str:
        body = (
            f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=width=device-width>"
            f"<title>{title}</title><style>body{{font:1.1rem/1.5 system-ui,sans-serif;margin:15vh auto;max-width:32rem;"
            f"padding:0 1rem}}</style><h1>{title}</h1><p>{text}</p></html>"
        )
        return f"    location @{name} {{ default_type text/html; {headers} return {status:d} '{body}\\n'; }}"

    retry = "add_header Retry-After {} always; add_header Cache-Control no-store always;"
    return "\n".join(
        [
            "    location @unknown { default_type text/plain; keepalive_timeout 0; "
            'return 404 "No site answers to this name here.\\n"; }',
            page(
                "away", 503, "One moment, please", "This site is not answering right now. Try again.", retry.format(5)
            ),
            page(
                "full",
                507,
                "No room for files",
                "This site has used up its disk space and takes no files until some are deleted.",
                "add_header Cache-Control no-store always;",
            ),
            page(
                "closed",
                503,
                "Not available right now",
                "This site is being worked on. Try again in a moment.",
                retry.format(120),
            ),
        ]
    )
