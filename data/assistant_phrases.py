"""How people talk about each attribute, in wordings of their own for train, val and test.

The table gives for each attribute its value pool and, split by split, two ways to state it, one
way to change it and one way to ask for it, in the first person. `{v}` is the value, `{old}` the
value before it. `assistant_frames` holds the wordings that fit any attribute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agemem_dspy.data.assistant_values import SPLITS, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The sentences of one attribute in one split."""

    states: tuple[str, ...]
    change: str
    ask: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Something that can be known about a person: its label, its value pool, its wordings."""

    label: str
    pool: str
    wordings: dict[Split, Wording]


COMPANION = "travel companion"

_TABLE = """
home airport = cities
  train: I always fly out of {v}. | The airport near my home is {v}. | I moved, so I fly out of {v} now. |
    Which airport do I fly out of?
  val: All my trips begin at {v} airport. | From my house the airport in {v} is nearest. |
    My trips begin at {v} airport since the move. | At which airport do my trips begin?
  test: I live close to the airport in {v}. | Look for departures from {v}, that is my airport. |
    I relocated, look for departures from {v}. | Where should my departures be from?
next destination = cities
  train: My next trip goes to {v}. | Soon I am off to {v}. | The trip goes to {v} instead. |
    Where does my next trip go?
  val: I am travelling to {v} next. | The coming journey takes me to {v}. | The journey takes me to {v} after all. |
    Which city am I travelling to next?
  test: Next on my travel list is {v}. | I will visit {v} this season. | I will visit {v} rather than {old}. |
    What place will I visit next?
hotel = hotels
  train: I booked a room at {v}. | My hotel room is at the {v}. | I moved my booking to {v}. |
    Where did I book a room?
  val: I will stay at {v}. | They reserved a bed for me at {v}. | I will stay at {v} instead of {old}. |
    At which hotel will I stay?
  test: My nights are reserved at {v}. | Check-in for me is at {v}. | Check-in is at {v} after the cancellation. |
    Which hotel has my reservation?
hotel budget = budgets
  train: I can spend {v} a night on a hotel. | Hotels should cost at most {v}. |
    I can now spend {v} a night on a hotel. | How much can I spend on a hotel?
  val: A room may not exceed {v} per night. | My limit for rooms is {v}. | My limit for rooms moved to {v}. |
    What is my limit for rooms?
  test: I set aside {v} for each hotel night. | For accommodation I pay up to {v}. |
    For accommodation I pay up to {v} by now. | Up to how much do I pay for accommodation?
flight = flights
  train: I am booked on flight {v}. | My ticket says flight {v}. | They moved me to flight {v}. |
    Which flight am I booked on?
  val: I got a place on {v}, the early plane. | The plane I take has number {v}. |
    The plane I take is {v} after a rebooking. | What number has the plane I take?
  test: I will be flying with {v}. | The flight number they gave me is {v}. | I was rebooked from {old} to {v}. |
    What flight number did they give me?
seat preference = seats
  train: I like to sit in {v} seats. | On planes I pick {v} seats. | I like {v} seats better now. |
    Which seats do I pick on planes?
  val: Give me the {v} place if you can. | For me only {v} seats are fine. | Only {v} seats are fine for me now. |
    What sort of place do I want on board?
  test: I feel best on {v} seats. | When flying I ask for {v} seats. | I started to ask for {v} seats. |
    What seats do I ask for when flying?
diet = diets
  train: I only eat {v} meals. | My meals have to be {v}. | I switched to {v} meals. | What kind of meals do I eat?
  val: Order {v} food for me. | At restaurants I need {v} dishes. | I need {v} dishes from today. |
    Which dishes do I need at restaurants?
  test: I keep to {v} cooking. | Menus for me must be {v}. | The doctor put me on {v} cooking. |
    How must menus for me be?
allergy = foods
  train: I am allergic to {v}. | I get ill when I eat {v}. | The test says I am allergic to {v}, not {old}. |
    What am I allergic to?
  val: My body cannot handle {v}. | There must be no {v} in my food. |
    It was {v} and not {old} that my body rejects. | What must not be in my food?
  test: I react badly to {v}. | A bite of {v} sends me to hospital. | It turns out that I react to {v}. |
    What do I react badly to?
meeting day = days
  train: The meeting is on {v}. | We will meet the client on {v}. | The meeting moved to {v}. | When is the meeting?
  val: They invited me to the meeting of {v}. | On {v} I have to be at the meeting. |
    The meeting was shifted to {v}. | On which day do I have to be at the meeting?
  test: Our team comes together on {v}. | I promised to join the meeting on {v}. |
    The team comes together on {v} instead. | When does our team come together?
passport expiry = expiries
  train: My passport expires in {v}. | I must renew my passport before {v}. |
    With the renewal my passport expires in {v}. | When does my passport expire?
  val: The passport I have is valid until {v}. | My passport runs out in {v}. |
    The replacement passport runs out in {v}. | Until when is my passport valid?
  test: After {v} my passport is no good. | My passport is good through {v}. |
    I misread it, my passport is good through {v}. | Through what month is my passport good?
dentist = doctors
  train: I see {v} for my teeth. | My teeth are checked by {v}. | I go to {v} for my teeth now. |
    Who checks my teeth?
  val: For toothache I call {v}. | The dentist I trust is {v}. | The dentist I trust today is {v}. |
    Who do I call for toothache?
  test: I have a dental appointment with {v}. | My fillings are done by {v}. | From this year {v} does my fillings. |
    Who does my fillings?
tour guide = people
  train: Our tour guide will be {v}. | The guide is called {v}. | Our tour guide will be {v} instead. |
    Who will be our tour guide?
  val: The person who shows us around is {v}. | {v} leads our sightseeing walk. |
    Now {v} leads our sightseeing walk. | Who leads our sightseeing walk?
  test: We hired {v} as tour guide. | Our walking tour is with {v}. |
    The agency gave us {v} as tour guide, not {old}. | Who did we hire as tour guide?
travel companion = people
  train: I travel together with {v}. | My friend {v} comes with me. | My friend {v} comes with me instead of {old}. |
    Who travels together with me?
  val: The person I travel with is {v}. | {v} shares this trip with me. |
    It is {v} who shares this trip with me now. | Who shares this trip with me?
  test: I take {v} along. | The seat beside me belongs to {v}. | I take {v} along because {old} is busy. |
    Who do I take along?
airline = airlines
  train: I like to fly with {v}. | My miles are with {v}. | I moved my miles to {v}. | Which airline has my miles?
  val: I only buy tickets from {v}. | As a carrier I trust {v}. | The carrier I trust these days is {v}. |
    From which carrier do I buy tickets?
  test: I am a regular customer of {v}. | Search for planes of {v} first. | I am done with {old}, search for {v}. |
    Which carrier should you search for first?
luggage code = codes
  train: My luggage opens with {v}. | I set the lock of my luggage to {v}. | I set the luggage lock to {v} today. |
    How does my luggage open?
  val: The digits for my suitcase are {v}. | Use {v} to unlock the suitcase. | The suitcase digits turned into {v}. |
    Which digits unlock the suitcase?
  test: The combination of my trunk is {v}. | Dial {v} and my luggage is open. |
    You must dial {v} for my luggage by now. | What do I dial for my luggage?
language course = languages
  train: I am learning {v}. | I signed up for a {v} course. | I am learning {v} now. | Which language am I learning?
  val: I take lessons in {v}. | On weekends I study {v}. | My lessons are in {v} from this month. |
    In which language do I take lessons?
  test: I joined a class for {v}. | My evenings go into {v} grammar. | I left the {old} class and joined {v}. |
    Which language class did I join?
hobby = hobbies
  train: I enjoy {v} in my free time. | My big passion is {v}. | I gave up {old} and took up {v}. |
    What do I enjoy in my free time?
  val: Nothing relaxes me like {v}. | I spend Sundays on {v}. | I spend Sundays on {v} nowadays. |
    What do I spend Sundays on?
  test: I am really into {v}. | After work I do some {v}. | I lost interest in {old} and do {v}. |
    What am I really into?
train time = times
  train: My train leaves at {v}. | I take the train at {v}. | The train leaves at {v} now. |
    When does my train leave?
  val: The railway ticket is for {v}. | I have to be on the platform at {v}. |
    The railway ticket is for {v} after the exchange. | What time is the railway ticket for?
  test: The departure of my train is {v}. | By rail I set off at {v}. | By rail I set off at {v}, not {old}. |
    When do I set off by rail?
gift idea = gifts
  train: I want to give my mother a {v}. | A {v} would be my gift. | I will give my mother a {v} instead. |
    What do I want to give my mother?
  val: For the birthday I will bring a {v}. | The present should be a {v}. | The present should be a {v} after all. |
    What should the present be?
  test: I plan to surprise my aunt with a {v}. | For my aunt I look for a {v}. |
    My aunt gets a {v} rather than a {old}. | What do I look for as surprise for my aunt?
"""


def _read(table: str) -> Iterator[Attribute]:
    for block in table.replace("|\n", "|").strip().split("\n"):
        if " = " in block:
            label, _, pool = block.partition(" = ")
            wordings: dict[Split, Wording] = {}
            continue
        name, _, sentences = block.strip().partition(": ")
        first, second, change, ask = (" ".join(part.split()) for part in sentences.split("|"))
        split = SPLITS[len(wordings)]
        if name != split:
            raise ValueError(f"the wordings of {label!r} must come in the order {SPLITS}, found {name!r}")
        wordings[split] = Wording(states=(first, second), change=change, ask=ask)
        if len(wordings) == len(SPLITS):
            yield Attribute(label=label, pool=pool, wordings=wordings)


ATTRIBUTES: tuple[Attribute, ...] = tuple(_read(_TABLE))
BY_LABEL: dict[str, Attribute] = {attribute.label: attribute for attribute in ATTRIBUTES}
