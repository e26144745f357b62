"""The values that people tell their assistant, dealt to train, val and test without overlap.

Every pool is dealt out by position (two parts train, one val, one test), every number by its
remainder modulo 4, so that no value, name or number of one split occurs in another.
Hotels, airlines and flight codes are invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_SHARE: dict[Split, tuple[int, ...]] = {"train": (0, 1), "val": (2,), "test": (3,)}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("""
Ada Bruno Clara Dmitri Elin Farid Greta Hamza Ines Jonas Keiko Lorenzo Marta Nadim Olga Pavel Quentin Rosa Samir Tilda
Umberto Vera Wanda Xavier Yasmin Zoltan Amara Bastian Celia Dario Esther Fabio Gemma Henrik Ilana Javier Katya Leander
Mireille Nikolai Odette Pedro Ramona Silvan Tamara Ulrich Viola Wilma Yannick Zelda Anselm Bettina Cosmo Delia Emeka
Fiona Gustavo Hedda Imran Jolanta Kofi Linnea Marius Noemi Oskar Petra Rafael Selma Tobias Ursula Viktor Wenzel Yara
Zachary Adele Benno Corinna Dominik Elvira Ferenc Giulia Hakan Irena Jasper Kirsten Ludwig Malika Nestor Orla Piotr
Renata Stefan Thalia Uma Valerio Wiebke Yusuf Zora Aldo Birgit Cyril Dagmar Enzo Frida Goran Helga Igor Judith Kamil
Lucia Matteo Nora Otto Paloma Ruben Sabine Timo Ulla Vincent Wolfram Ylva Zita Armin Blanca Casper Daphne Edgar Flavia
Gilbert Hanna Ivo Jelena Klaus Lydia Mirko Ottilie Percy Regina Sergei Tessa Urban Verena Wilfred Yolanda Zeno
""")

SURNAMES = _words("""
Abel Bakker Castel Dorn Eklund Falk Grau Hassan Iversen Jansen Kovar Lindt Moreau Novak Okafor Peeters Quist Rossi
Sato Tanaka Ulman Varga Weiss Ximenes Yilmaz Zeller Adler Brandt Conti Delgado Engel Fischer Gruber Holm Ibarra Jensen
Keller Lopez Meyer Nilsen Ortega Pavlov Reyes Schmid Torres Unger Vogel Wagner Yamada Ziegler Amato Berg Costa Dumas
Erikson Ferrari Garcia Hoffman Ito Jovic Kruger Lang Mendes Nowak Olsen Popov Ricci Silva Tamm Urbina Vidal Wolff
Yoder Zimmer Arslan Becker Cruz Demir Ebner Fabre Greco Hansen Ilic Juarez Kowal Leroy Marino Nagy Orsini Petrov Roth
Soler Toth Usman Vega Winter Yates Zanetti Aydin Blanc Carvalho Dietz Esposito Fuchs Gallo Huber Ivanov Jonker Kaya
Lund Molnar Neumann Oliva Pinto Riva Sandoval Tellier Vargas Weber Zhang
""")

CITIES = _words("""
Lyon Porto Turin Gdansk Bergen Ghent Malmo Seville Leipzig Brno Tartu Zadar Cork Basel Graz Utrecht Aarhus Tampere
Palermo Toulouse Bilbao Krakow Antwerp Dresden Linz Zagreb Riga Vilnius Tallinn Oslo Lisbon Madrid Vienna Prague
Warsaw Budapest Dublin Athens Helsinki Sofia Belgrade Bucharest Ankara Izmir Tunis Cairo Nairobi Dakar Accra Lagos
Kampala Lusaka Harare Windhoek Durban Rabat Algiers Muscat Doha Dubai Amman Beirut Baku Tbilisi Yerevan Almaty
Tashkent Kabul Lahore Karachi Mumbai Pune Chennai Kolkata Dhaka Colombo Yangon Bangkok Hanoi Manila Jakarta Surabaya
Perth Adelaide Brisbane Sydney Hobart Auckland Suva Apia Tokyo Osaka Kyoto Sapporo Nagoya Seoul Busan Incheon Taipei
Shanghai Beijing Chengdu Wuhan Xiamen Macau Toronto Montreal Calgary Ottawa Halifax Boston Chicago Denver Dallas
Houston Seattle Portland Phoenix Atlanta Miami Orlando Memphis Detroit Omaha Tulsa Havana Panama Bogota Quito Lima
Cusco Arequipa Santiago Valparaiso Cordoba Rosario Mendoza Montevideo Asuncion Recife Salvador Curitiba Brasilia
Manaus Belem Caracas Medellin Cali Managua Merida Puebla Tijuana Oaxaca Naples Bologna Verona Genoa Venice Bari
Catania Trieste
""")

HOTEL_WORDS = _words("""
Heron Amber Cedar Falcon Jasmine Otter Willow Topaz Magpie Clover Lynx Poppy Onyx Badger Laurel Opal Kestrel Juniper
Coral Marten Hazel Jade Raven Heather Pearl Stork Maple Quartz Finch Birch Ruby Osprey Aspen Garnet Plover Elm Zircon
Swallow Rowan Agate Curlew Alder Beryl Linnet Larch Copper Gannet Myrtle Silver Dunlin Thistle Cobalt Puffin Fern
Basalt Robin Bramble Granite Thrush Primrose Marble Lapwing Orchid Slate Wren Violet Flint Bittern Tulip Crystal
Siskin Dahlia Indigo Merlin Iris Scarlet Pelican Lotus Ivory Condor Acacia Crimson Egret Mimosa Azure Toucan Camellia
Emerald Ibis Lilac Saffron Parrot Peony Velvet Swift Anemone Golden Starling Aster Bronze Sparrow Begonia Turquoise
Oriole Freesia Sable Petrel Gentian Ochre
""")
_HOTEL_KINDS = ("Inn", "Lodge", "House", "Court")

FOODS = _words("""
peanuts shellfish walnuts mango celery mustard sesame lupin kiwi strawberries oysters almonds cashews hazelnuts
pistachios pecans shrimp lobster crab mussels squid octopus salmon tuna cod anchovies sardines eggs milk cheese butter
yogurt cream wheat barley rye oats corn rice soy lentils chickpeas beans peas tofu garlic onions leeks chives peppers
tomatoes eggplant potatoes carrots spinach kale lettuce cabbage broccoli radishes beets turnips mushrooms avocado
bananas apples pears plums peaches apricots cherries grapes melons papaya pineapple oranges lemons limes figs dates
raisins blueberries raspberries honey cinnamon nutmeg ginger turmeric vanilla cocoa coffee licorice coriander parsley
basil oregano thyme cumin paprika
""")

HOBBIES = _words("""
archery pottery chess fencing knitting sailing rowing climbing juggling origami painting photography gardening
birdwatching surfing skiing skating cycling running swimming boxing judo karate yoga pilates dancing singing drumming
piano violin guitar flute cello harp trumpet baking brewing beekeeping fishing hiking camping kayaking snorkeling
diving golf tennis badminton squash cricket rugby hockey basketball volleyball handball curling bowling darts
billiards poker bridge scrabble sudoku crosswords calligraphy woodworking weaving sewing quilting embroidery sculpting
astronomy geocaching genealogy orienteering paragliding falconry topiary
""")

LANGUAGES = _words("""
Finnish Swahili Korean Danish Tamil Welsh Latvian Zulu Greek Hindi Czech Basque Turkish Polish Arabic Irish Thai
Maltese Hebrew Icelandic Urdu Dutch Slovak Persian Swedish Bengali Croatian Amharic Hungarian Nepali Estonian Khmer
Romanian Somali Catalan Lao Serbian Mongolian Ukrainian Malay Albanian Punjabi Georgian Quechua
""")

GIFTS = _words("""
telescope lantern scarf teapot puzzle parasol backpack vase candle notebook compass blanket kettle headlamp thermos
hammock wallet bracelet necklace locket watch clock lamp mirror cushion rug basket bowl jug mug platter corkscrew
cookbook novel dictionary globe map poster lithograph sketchbook palette brush camera tripod radio speaker keyboard
megaphone microphone drone kite frisbee football racket skateboard scooter helmet sash shawl beanie sweater jacket
raincoat poncho handbag satchel belt tie brooch ring pendant humidifier sponge bathrobe towel hairbrush toolbox drill
hammer screwdriver flashlight tent barometer magnifier microscope fishbowl terrarium birdhouse planter trowel
watering-can
""")

SEATS = _words("aisle window exit-row front-row bulkhead back-row middle upper-deck")
DIETS = _words("""
vegan halal kosher pescatarian gluten-free keto dairy-free low-salt paleo vegetarian low-carb sugar-free
""")
_BRAND_HEADS = _words("Vel Nor Zan Kir Bel Tor Lum Qua Fen Dra Mos Pry")
_BRAND_TAILS = _words("tra vane dora mis lix quist bex nova rim sol tix wen")
_MONTHS = _words("January February March April May June July August September October November December")


def _deal(pool: Sequence[str], split: Split) -> tuple[str, ...]:
    return tuple(value for position, value in enumerate(pool) if position % 4 in _SHARE[split])


def _numbers(low: int, high: int, split: Split) -> tuple[int, ...]:
    return tuple(number for number in range(low, high) if number % 4 in _SHARE[split])


@cache
def brands(split: Split) -> tuple[str, ...]:
    """Return the invented brand words of a split."""
    return tuple(head + tail for head in _deal(_BRAND_HEADS, split) for tail in _BRAND_TAILS)


@cache
def people(split: Split) -> tuple[str, ...]:
    """Return the first names of a split."""
    return _deal(NAMES, split)


@cache
def pool(name: str, split: Split) -> tuple[str, ...]:
    """Return every value that the pool `name` can give in `split`.

    Raises:
        KeyError: no pool has this name.
    """
    match name:
        case "people":
            return people(split)
        case "doctors":
            return tuple(f"Dr {surname}" for surname in _deal(SURNAMES, split))
        case "hotels":
            return tuple(f"{word} {kind}" for word in _deal(HOTEL_WORDS, split) for kind in _HOTEL_KINDS)
        case "airlines":
            return tuple(f"{brand} Air" for brand in brands(split))
        case "flights":
            codes = (head[:2].upper() for head in _deal(_BRAND_HEADS, split))
            return tuple(f"{code}{number}" for code in codes for number in _numbers(100, 1000, split))
        case "budgets":
            return tuple(f"{number} euros" for number in _numbers(45, 400, split))
        case "codes":
            return tuple(str(number) for number in _numbers(400, 1000, split))
        case "days":
            return tuple(f"{day} {month}" for day in _numbers(1, 29, split) for month in _MONTHS)
        case "expiries":
            return tuple(f"{month} {year}" for year in _numbers(2027, 2043, split) for month in _MONTHS)
        case "times":
            return tuple(f"{hour}:{minute}" for hour in range(6, 24) for minute in _numbers(10, 60, split))
    return _deal(_WORD_POOLS[name], split)


_WORD_POOLS: dict[str, Sequence[str]] = {
    "cities": CITIES,
    "foods": FOODS,
    "hobbies": HOBBIES,
    "languages": LANGUAGES,
    "gifts": GIFTS,
    "seats": SEATS,
    "diets": DIETS,
}

# Words that many values share and that identify none of them.
SHARED_WORDS = frozenset({"dr", "air", "euros", *(kind.lower() for kind in _HOTEL_KINDS)})
