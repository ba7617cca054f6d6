"""Colors as shops write them, in English and Korean, each with its spellings and close shades.

Words that more often name something else in a listing (rose, mint, cream, wine) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

COLORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "black": ("black", "ebony", "블랙", "검정", "검은", "까만"),
        "white": ("white", "ivory", "off-white", "화이트", "흰색", "하얀", "하양", "아이보리"),
        "gray": ("gray", "grey", "charcoal", "slate", "그레이", "회색", "차콜"),
        "silver": ("silver", "실버", "은색"),
        "gold": ("gold", "골드", "금색"),
        "red": ("red", "crimson", "scarlet", "레드", "빨강", "빨간"),
        "burgundy": ("burgundy", "maroon", "버건디", "와인색"),
        "pink": ("pink", "핑크", "분홍"),
        "orange": ("orange", "오렌지", "주황"),
        "yellow": ("yellow", "옐로우", "옐로", "노랑", "노란"),
        "green": ("green", "olive", "khaki", "그린", "초록", "녹색", "카키", "올리브"),
        "blue": ("blue", "azure", "cobalt", "teal", "turquoise", "블루", "파랑", "파란", "하늘색"),
        "navy": ("navy", "midnight blue", "네이비", "남색"),
        "purple": ("purple", "violet", "lavender", "lilac", "퍼플", "보라", "라벤더"),
        "brown": ("brown", "브라운", "갈색"),
        "beige": ("beige", "베이지", "크림색"),
    }
)
"""Values by name. Shades that shoppers would not take for one another (navy, blue) are values of their own."""
