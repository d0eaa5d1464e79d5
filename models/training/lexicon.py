"""The closed world: every name, thing and place the model knows.

Knows words and facts. Does not know sentences, tokens or skills.
"""

GIRLS = tuple(
    "Mary Anna Lily Emma Sara Kate Jane Lucy Alice Julia Nora Ella Rosa Clara Diana Grace "
    "Helen Irene Laura Megan Nina Olga Paula Rita Sonia Tina Vera Wendy Zoe Amy Beth Cora".split()
)
BOYS = tuple(
    "John Tom Max Paul Peter Mark James Adam Ben Carl David Eric Frank George Henry Ivan "
    "Jack Kevin Leo Martin Nick Oscar Robert Sam Tim Victor Walter Alan Brian Colin Bob Felix".split()
)
NAMES = GIRLS + BOYS

PLACES = tuple(
    "store park school garden beach market library museum station forest river farm hotel "
    "house office hospital restaurant".split()
)
OBJECTS = tuple(
    "drink book ball ring letter cake flower key map hat coin lamp toy basket snack bone necklace computer".split()
)
ANIMALS = tuple("dog cat bird fox rabbit horse bear frog mouse duck".split())
ADJECTIVES = tuple("red big small tiny funny blue green little yellow new".split())

# country -> (capital, continent); names of one word only, so that each is one token
COUNTRIES: dict[str, tuple[str, str]] = {
    "France": ("Paris", "Europe"),
    "Italy": ("Rome", "Europe"),
    "Spain": ("Madrid", "Europe"),
    "Germany": ("Berlin", "Europe"),
    "England": ("London", "Europe"),
    "Greece": ("Athens", "Europe"),
    "Norway": ("Oslo", "Europe"),
    "Sweden": ("Stockholm", "Europe"),
    "Finland": ("Helsinki", "Europe"),
    "Denmark": ("Copenhagen", "Europe"),
    "Poland": ("Warsaw", "Europe"),
    "Austria": ("Vienna", "Europe"),
    "Hungary": ("Budapest", "Europe"),
    "Portugal": ("Lisbon", "Europe"),
    "Ireland": ("Dublin", "Europe"),
    "Belgium": ("Brussels", "Europe"),
    "Switzerland": ("Bern", "Europe"),
    "Croatia": ("Zagreb", "Europe"),
    "Bulgaria": ("Sofia", "Europe"),
    "Ukraine": ("Kyiv", "Europe"),
    "Latvia": ("Riga", "Europe"),
    "Serbia": ("Belgrade", "Europe"),
    "Iceland": ("Reykjavik", "Europe"),
    "Russia": ("Moscow", "Europe"),
    "Turkey": ("Ankara", "Asia"),
    "Japan": ("Tokyo", "Asia"),
    "China": ("Beijing", "Asia"),
    "Thailand": ("Bangkok", "Asia"),
    "Vietnam": ("Hanoi", "Asia"),
    "Nepal": ("Kathmandu", "Asia"),
    "Iran": ("Tehran", "Asia"),
    "Iraq": ("Baghdad", "Asia"),
    "Syria": ("Damascus", "Asia"),
    "Lebanon": ("Beirut", "Asia"),
    "Egypt": ("Cairo", "Africa"),
    "Kenya": ("Nairobi", "Africa"),
    "Ghana": ("Accra", "Africa"),
    "Morocco": ("Rabat", "Africa"),
    "Senegal": ("Dakar", "Africa"),
    "Angola": ("Luanda", "Africa"),
    "Uganda": ("Kampala", "Africa"),
    "Zambia": ("Lusaka", "Africa"),
    "Canada": ("Ottawa", "North America"),
    "Cuba": ("Havana", "North America"),
    "Jamaica": ("Kingston", "North America"),
    "Peru": ("Lima", "South America"),
    "Chile": ("Santiago", "South America"),
    "Ecuador": ("Quito", "South America"),
    "Venezuela": ("Caracas", "South America"),
    "Uruguay": ("Montevideo", "South America"),
    "Australia": ("Canberra", "Oceania"),
    "Fiji": ("Suva", "Oceania"),
}
CAPITALS: dict[str, str] = {country: capital for country, (capital, _) in COUNTRIES.items()}
CONTINENTS: dict[str, str] = {country: continent for country, (_, continent) in COUNTRIES.items()}

# no skill needs these; they are copied, so that a request in everyday words works
EVERYDAY = tuple(
    "the a and is in on over under with hello world one two three four five tree moon sun star sea water fire "
    "house red green white black brown quick lazy jumps sat mat bread milk chair table door street city mountain "
    "summer winter day night love music code data token head layer model yes no".split()
)

# what is copied, and what the tokenizer keeps whole with and without a leading space
CONTENT_WORDS = tuple(
    dict.fromkeys((*NAMES, *PLACES, *OBJECTS, *ANIMALS, *ADJECTIVES, *CAPITALS, *CAPITALS.values(), *EVERYDAY))
)
