"""What the shop opens with: 48 books that nobody has written. The newest have no reviews yet."""

from __future__ import annotations

SUBJECTS = {
    "Sea": "the sea and those who live by it",
    "Gardens": "gardens and the patience that they ask for",
    "Maps": "maps and what they leave out",
    "Night": "the night and its light",
    "Bread": "bread, its makers and its hours",
    "Machines": "machines and the people who listen to them",
}

_TOLD = (
    "A quiet book about {about}, told by somebody who was there and took notes.",
    "Nine essays on {about}: exact, funny, and never in a hurry.",
    "A family, a long summer, and {about}; one reads it in an evening and goes back to it.",
    "Everything that is known about {about}, and the better part of what is not.",
)

# title, author, subject, year, pages, cents, sum of stars, reviews
_SHELF = (
    ("The Tide Table", "Maren Holm", "Sea", 2011, 312, 1890, 612, 139),
    ("Salt in the Rigging", "Tomas Okafor", "Sea", 2016, 268, 1650, 388, 92),
    ("A Lighthouse Reader", "Ines Vale", "Sea", 2019, 204, 1490, 921, 201),
    ("What the Gulls Said", "Piet Arends", "Sea", 2020, 156, 1290, 74, 21),
    ("Nine Fathoms", "Maren Holm", "Sea", 2021, 344, 2150, 260, 58),
    ("The Drowned Parish", "Una Kerrigan", "Sea", 2022, 398, 2290, 143, 33),
    ("Harbour Lights, Harbour Names", "Ines Vale", "Sea", 2023, 230, 1790, 98, 20),
    ("Slack Water", "Tomas Okafor", "Sea", 2025, 286, 1990, 0, 0),
    ("The Slow Hedge", "Clara Whitlock", "Gardens", 2009, 188, 1450, 540, 121),
    ("An Almanac of Small Gardens", "Jun Sato", "Gardens", 2014, 256, 1950, 711, 152),
    ("Pruning as an Argument", "Edgar Moss", "Gardens", 2017, 172, 1390, 95, 28),
    ("The Seed Ledger", "Clara Whitlock", "Gardens", 2019, 301, 2090, 402, 88),
    ("Moss, a Love Story", "Jun Sato", "Gardens", 2021, 143, 1250, 333, 71),
    ("Beneath the Pear", "Lidia Brandt", "Gardens", 2022, 277, 1850, 61, 14),
    ("The Gardener's Week", "Edgar Moss", "Gardens", 2024, 210, 1590, 0, 0),
    ("Walls with Fruit", "Lidia Brandt", "Gardens", 2025, 233, 1790, 0, 0),
    ("The Blank Quarter", "Samir Aziz", "Maps", 2010, 356, 2250, 488, 107),
    ("How to Fold a Country", "Greta Lindqvist", "Maps", 2015, 198, 1550, 629, 133),
    ("Contour", "Samir Aziz", "Maps", 2018, 265, 1890, 212, 49),
    ("The Surveyor's Daughter", "Owen Pryce", "Maps", 2019, 412, 2390, 877, 187),
    ("Roads That Were Never Built", "Greta Lindqvist", "Maps", 2020, 284, 1990, 154, 36),
    ("An Island of One's Own Making", "Owen Pryce", "Maps", 2022, 240, 1690, 118, 27),
    ("North, More or Less", "Ada Fontaine", "Maps", 2024, 219, 1650, 43, 10),
    ("The Edge of the Sheet", "Ada Fontaine", "Maps", 2025, 302, 2050, 0, 0),
    ("A Lamp for the Corridor", "Viktor Stahl", "Night", 2008, 224, 1490, 301, 73),
    ("The Star Clerk", "Noor Haddad", "Night", 2013, 330, 1990, 804, 169),
    ("Owls, Mostly", "Beth Carrow", "Night", 2016, 167, 1350, 566, 118),
    ("Last Bus to Andromeda", "Noor Haddad", "Night", 2018, 289, 1790, 419, 95),
    ("The Watchman's Tea", "Viktor Stahl", "Night", 2020, 151, 1190, 132, 31),
    ("Dark Enough", "Beth Carrow", "Night", 2021, 246, 1750, 187, 41),
    ("Seven Kinds of Quiet", "Ilse Marchetti", "Night", 2023, 208, 1590, 92, 20),
    ("The Four o'Clock People", "Ilse Marchetti", "Night", 2025, 273, 1890, 0, 0),
    ("Crumb", "Paolo Ferrin", "Bread", 2012, 180, 1450, 447, 99),
    ("The Baker Wakes First", "Hanne Dahl", "Bread", 2015, 262, 1690, 592, 127),
    ("Rye and Reason", "Hanne Dahl", "Bread", 2017, 221, 1590, 266, 60),
    ("A Field Before Breakfast", "Amos Lark", "Bread", 2019, 318, 2090, 138, 32),
    ("Oven, Street, City", "Paolo Ferrin", "Bread", 2020, 375, 2350, 305, 66),
    ("The Sourdough Letters", "Rosa Quint", "Bread", 2022, 194, 1390, 711, 146),
    ("Flour on the Stairs", "Rosa Quint", "Bread", 2024, 247, 1750, 0, 0),
    ("Proof", "Amos Lark", "Bread", 2025, 205, 1490, 0, 0),
    ("The Patient Engine", "Dorothea Klein", "Machines", 2011, 340, 2190, 512, 112),
    ("A Short History of Levers", "Ravi Menon", "Machines", 2014, 176, 1390, 328, 77),
    ("Loom", "Sian Howell", "Machines", 2016, 298, 1890, 641, 138),
    ("The Clockmaker's Apprentice's Cat", "Ravi Menon", "Machines", 2018, 254, 1690, 958, 199),
    ("Tolerances", "Dorothea Klein", "Machines", 2021, 227, 1790, 174, 39),
    ("Small Motors", "Emil Novak", "Machines", 2023, 192, 1490, 66, 15),
    ("The Telephone Exchange", "Sian Howell", "Machines", 2024, 311, 1990, 0, 0),
    ("What the Lift Remembers", "Emil Novak", "Machines", 2025, 238, 1690, 0, 0),
)

BOOKS = tuple(
    (
        number,
        title,
        author,
        subject,
        year,
        pages,
        cents,
        stars,
        reviews,
        _TOLD[number % 4].format(about=SUBJECTS[subject]),
    )
    for number, (title, author, subject, year, pages, cents, stars, reviews) in enumerate(_SHELF, 1)
)
"""Rows of the table books: id, title, author, subject, year, pages, cents, stars, reviews, blurb."""
