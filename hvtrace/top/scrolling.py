"""Lines that scroll, as many as there are; who draws them makes those on the screen only."""

from __future__ import annotations

from textual.geometry import Size
from textual.scroll_view import ScrollView


class Scrolling(ScrollView, can_focus=True, inherit_bindings=False):
    """A column at the right is the scroll bar's, whether it is there or not: no width changes."""

    DEFAULT_CSS = """
    Scrolling {
        height: 1fr; scrollbar-size-vertical: 1; scrollbar-gutter: stable; overflow-x: hidden;
    }
    """

    def set_count(self, count: int) -> None:
        """There are so many lines now.

        A `virtual_size` that changes has Textual lay the screen out and paint it twice. Only
        a scroll bar that comes or goes is worth that.
        """
        size = Size(0, count)
        if self.show_vertical_scrollbar != (count > self.container_size.height):
            self.virtual_size = size
            return
        self.set_reactive(Scrolling.virtual_size, size)
        if self.show_vertical_scrollbar:
            self.vertical_scrollbar.window_virtual_size = count
            if self.scroll_offset.y > self.max_scroll_y:
                self.scroll_to(y=self.max_scroll_y, animate=False, immediate=True)
