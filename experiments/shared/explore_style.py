"""Style sheet and pointer events of the page of `explore.py`.

Text has a contrast of at least 4.5 : 1 with its background, frames and the focus have 3 : 1, in the light theme and in
the dark one (WCAG 2.2, AA).
"""

from __future__ import annotations

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; padding: 12px 16px !important }
.explore .html-container { padding: 0 !important }
.explore h1 { font-size: 1.35rem; margin: 0 }
.explore h2 { font-size: 1.02rem; margin: 0 0 2px }
.explore p { margin: 0; line-height: 1.4 }
.explore img { display: block; max-width: 100%; height: auto; margin: 0; outline: 1px solid var(--neutral-500) }
.explore figure { margin: 0 }
.explore figcaption { font-size: .8rem; line-height: 1.35; margin: 3px 0 8px; overflow-wrap: anywhere }
.explore .strip { display: flex; flex-wrap: wrap; gap: 10px; min-height: 130px }
.explore p + .strip { margin-top: 6px }
.explore .strip figure { width: min-content }
.explore .strip img { max-width: none }
.explore .number { font-variant-numeric: tabular-nums; white-space: nowrap }
.explore .key { color: #b34700; font-weight: 600 }
.explore .own { color: #00796b; font-weight: 600 }
.dark .explore .key { color: #ff9a4d }
.dark .explore .own { color: #4db6ac }
.tight { gap: 2px !important }
.explore .place img { cursor: crosshair; touch-action: none; user-select: none }
.explore .choice img { cursor: pointer }
.gradio-container input[type=range]::-webkit-slider-thumb { outline: 1px solid var(--neutral-500) }
.gradio-container input[type=range]::-moz-range-thumb { outline: 1px solid var(--neutral-500) }
.gradio-container :focus-visible { outline: 3px solid var(--primary-600) !important; outline-offset: 2px !important }
.dark :focus-visible { outline-color: var(--primary-400) !important }
"""

# Sends the place where an image was pressed or dragged to, in shares of its width and height.
POINTER = """
const send = (event) => {
    const picture = event.target.closest('img');
    if (!picture || event.buttons !== 1) return;
    event.preventDefault();
    const box = picture.getBoundingClientRect();
    const share = (value) => Math.min(Math.max(value, 0), 1);
    const x = share((event.clientX - box.left) / box.width), y = share((event.clientY - box.top) / box.height);
    trigger('input', {x, y});
};
element.addEventListener('pointerdown', send);
element.addEventListener('pointermove', send);
"""
