"""Unrelated chatter for stage 2: plausible, of many topics, sharing nothing with the task.

A pattern such as "The {fox|owl} sleeps." stands for one sentence per alternative. The chatter of
train, val and test is worded apart, as everything else.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable
from functools import cache, lru_cache

from agemem_dspy.data.assistant_values import SPLITS, Split
from agemem_dspy.errors import DataError

_TOPICS: dict[str, dict[Split, tuple[str, ...]]] = {
    "weather": {
        "train": (
            "The {storm|blizzard|drizzle} on the radio lasted the whole {evening|afternoon}.",
            "Forecasters expect {fog|hail|thunder} over the {hills|coast|valley}.",
        ),
        "val": ("A {rainbow|heatwave|gale} surprised everybody in the {village|harbour}.",),
        "test": ("Thick {clouds|mist|snow} covered the {stadium|lighthouse} all day.",),
    },
    "animals": {
        "train": (
            "A {fox|hedgehog|squirrel} crossed our street {twice|yesterday}.",
            "Our neighbour's cat caught a {mouse|lizard|moth} again.",
        ),
        "val": ("The {zoo|shelter|aquarium} got two young {otters|penguins|wolves}.",),
        "test": ("A {donkey|goat|peacock} escaped from the {farm|circus} nearby.",),
    },
    "sport": {
        "train": (
            "The local {goalkeeper|coach|striker} was injured in the {final|derby}.",
            "Fans sang for hours after the {marathon|tournament|relay}.",
        ),
        "val": ("A {sprinter|referee|wrestler} gave an interview on {television|stage}.",),
        "test": ("The {trophy|medal|jersey} of the champions was {stolen|auctioned}.",),
    },
    "space": {
        "train": (
            "Astronomers watched a {comet|meteor|supernova} with a new {antenna|satellite}.",
            "A {rocket|probe|shuttle} was launched before sunrise.",
        ),
        "val": ("The rings of {Saturn|Uranus} are made of {ice|dust}.",),
        "test": ("One {orbit|rotation} of {Neptune|Mercury} was explained at school.",),
    },
    "music": {
        "train": (
            "The {choir|orchestra|band} next door rehearses a {waltz|hymn|ballad}.",
            "Somebody whistled the same {melody|chorus} for an hour.",
        ),
        "val": ("An old {jukebox|accordion|organ} still plays in the {cellar|chapel}.",),
        "test": ("The {opera|jazz} singer lost a {microphone|costume} during the show.",),
    },
    "history": {
        "train": (
            "Historians dug up a {Roman|Viking|Celtic} {coin|sword|helmet}.",
            "The {castle|abbey|fortress} was restored with old stones.",
        ),
        "val": ("A {pharaoh|knight|pirate} is the hero of the {exhibition|lecture}.",),
        "test": ("Schoolchildren built a {pyramid|catapult|mosaic} out of {cardboard|clay}.",),
    },
    "gadgets": {
        "train": (
            "My cousin's {printer|router|laptop} stopped working after an update.",
            "The {robot|scanner} at the office prints {blank|purple} pages.",
        ),
        "val": ("A {charger|modem|toaster} caught fire in the {laboratory|basement}.",),
        "test": ("Someone returned a broken {tablet|calculator|blender} to the {shop|factory}.",),
    },
    "street": {
        "train": (
            "Workers are repairing the {bridge|tunnel|pavement} with loud machines.",
            "A {tram|lorry|tractor} blocked the crossing {again|today}.",
        ),
        "val": ("The {fountain|statue|elevator} on the square is {closed|leaking}.",),
        "test": ("Two {cranes|bulldozers|vans} are parked behind the {library|theatre}.",),
    },
    "films": {
        "train": (
            "The {thriller|western|cartoon} on screen had a {silly|sad|strange} ending.",
            "An actor in the {musical|sequel} forgot every line.",
        ),
        "val": ("Critics praised the {documentary|comedy} about {vampires|volcanoes|detectives}.",),
        "test": ("The {director|producer} wants a {dragon|ghost|wizard} in each scene.",),
    },
    "science": {
        "train": (
            "Chemists made a {magnet|battery|crystal-glass} from {seaweed|sawdust}.",
            "The {experiment|lecture-hall} smelled of {sulphur|rubber}.",
        ),
        "val": ("Biologists counted {beetles|jellyfish|earthworms} in the {lagoon|desert}.",),
        "test": ("A {professor|student} measured the {glacier|canyon|reef} with lasers.",),
    },
    "news": {
        "train": (
            "The {mayor|minister|senator} gave a speech about {taxes|recycling|parking}.",
            "Newspapers wrote about a missing {crown|parcel|submarine}.",
        ),
        "val": ("Voters argued about the {windmill|playground|cemetery} for {weeks|months}.",),
        "test": ("The {council|parliament|court-room} debated {fireworks|pigeons|billboards}.",),
    },
    "stories": {
        "train": (
            "Grandfather told a tale about a {giant|mermaid|dwarf} and a {ladder|barrel}.",
            "The {poem|riddle|fable} on the wall rhymes badly.",
        ),
        "val": ("In the comic a {spider|monkey|snail} becomes {king|sheriff}.",),
        "test": ("The puppet of a {witch|clown|soldier} scared the {toddlers|audience}.",),
    },
}

_PLAIN_WORDS = """
about after again also and another because been before being both could does during each ever every from have
having here hour into just like made make many more most much must need only other over same should some than that
their them then there these they this those through today twice under until very were what when where which while
whole whom whose will with would year yesterday your
"""


@cache
def _plain_words() -> frozenset[str]:
    return frozenset(_PLAIN_WORDS.split())


@lru_cache(maxsize=4096)  # the chatter is looked at again for every example
def content_words(text: str) -> frozenset[str]:
    """Return the words of `text` that name something: lower case, without a plural s.

    Numbers and capitalised words always count, other words from four letters on.
    """
    words = set()
    for word in re.findall(r"\w+(?:-\w+)*", text):
        lower = word.lower()
        named = word[0].isupper() or any(character.isdigit() for character in word)
        if (named or len(word) >= 4) and lower not in _plain_words():
            words.add(lower.removesuffix("s") if len(lower) > 4 else lower)
    return frozenset(words)


def _expand(pattern: str) -> Iterable[str]:
    parts = re.split(r"\{([^}]*)\}", pattern)
    return ("".join(choice) for choice in itertools.product(*(part.split("|") for part in parts)))


@cache
def chatter(split: Split | None = None) -> dict[str, tuple[str, ...]]:
    """Return every distractor by topic, of one split or (None) of all."""
    splits = SPLITS if split is None else (split,)
    return {
        topic: tuple(text for name in splits for pattern in patterns[name] for text in _expand(pattern))
        for topic, patterns in _TOPICS.items()
    }


def make_distractors(n: int, *, seed: int | str, avoid: Iterable[str] = (), split: Split | None = None) -> list[str]:
    """Draw `n` different distractors, each of another topic as long as topics last.

    None shares a content word with a text of `avoid`. The same arguments give the same list.

    Raises:
        DataError: fewer than `n` distractors are unrelated to `avoid`.
    """
    banned = frozenset[str]().union(*(content_words(text) for text in avoid))
    rng = random.Random(f"distractors/{split}/{seed}")
    topics = list(chatter(split).items())
    rng.shuffle(topics)
    drawn = (rng.sample(texts, len(texts)) for _, texts in topics)
    fit = [[text for text in texts if not content_words(text) & banned] for texts in drawn]
    rounds = itertools.zip_longest(*fit)
    chosen = [text for texts in rounds for text in texts if text is not None][:n]
    if len(chosen) < n:
        raise DataError(f"{n} distractors were asked for, but only {len(chosen)} are unrelated; ask for fewer")
    return chosen
