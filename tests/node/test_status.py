"""What a node says of itself is never ahead of what it has done."""

from tenantry.node.answer import Entry
from tenantry.node.status import NodeStatus
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteState

BLOG = Slug("blog")


def entry(revision: int) -> Entry:
    return Entry(BLOG, revision, None, None)


def test_the_end_of_older_work_does_not_settle_what_came_meanwhile() -> None:
    status = NodeStatus()
    status.head("e", 5)
    status.begin(BLOG, 5)
    status.head("e", 7)
    status.begin(BLOG, 7)
    status.site(entry(5), SiteState.FAILED, "generation 1 ended")
    assert status.revision == 4
    status.site(entry(7), SiteState.SERVING)
    assert status.revision == 7


def test_a_new_epoch_that_counts_from_below_is_settled_all_the_same() -> None:
    status = NodeStatus()
    status.head("e", 50)
    status.begin(BLOG, 50)
    status.head("f", 3)
    status.begin(BLOG, 3)
    status.site(entry(3), SiteState.SERVING)
    assert status.revision == 3
