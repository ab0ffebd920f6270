"""What `demo` knows beyond Ayni: a little of the world, and small talk."""

from __future__ import annotations

from .facts import Fact

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Italy": "Rome", "Peru": "Lima", "Japan": "Tokyo",
    "China": "Beijing", "India": "New Delhi", "Canada": "Ottawa", "England": "London", "Russia": "Moscow",
    "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw",
    "Norway": "Oslo", "Sweden": "Stockholm", "Kenya": "Nairobi", "Cuba": "Havana", "Chile": "Santiago",
    "Bolivia": "Sucre", "Mexico": "Mexico City", "Australia": "Canberra", "the United States": "Washington",
}  # fmt: skip

LANGUAGES = {
    "France": ["French"], "Germany": ["German"], "Spain": ["Spanish"], "Italy": ["Italian"], "Japan": ["Japanese"],
    "Peru": ["Spanish", "Quechua"], "Canada": ["English", "French"], "England": ["English"], "Russia": ["Russian"],
    "China": ["Chinese"], "Mexico": ["Spanish"], "Greece": ["Greek"], "Portugal": ["Portuguese"],
}  # fmt: skip


def _capital(country: str, city: str) -> Fact:
    questions = (
        f"What is the capital of {country}",
        f"What's the capital of {country}",
        f"Capital of {country}",
        f"Which city is the capital of {country}",
        f"Name the capital of {country}",
    )
    return Fact(f"the capital of {country}", f"The capital of {country} is {city}.", city, questions)


_ROWS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("the sky", "Air scatters blue light more than red light, so the sky looks blue.", "",
     ("Why is the sky blue", "Explain why the sky is blue", "Tell me why the sky is blue")),
    ("the colour of the sky", "The sky is blue.", "Blue",
     ("What color is the sky", "What colour is the sky", "What is the color of the sky", "Which color is the sky")),
    ("the colour of grass", "Grass is green.", "Green", ("What color is grass", "What colour is grass",
                                                         "What is the color of grass")),
    ("the colour of snow", "Snow is white.", "White", ("What color is snow", "What colour is snow",
                                                       "What is the color of snow")),
    ("the week", "A week has seven days.", "Seven", ("How many days are in a week", "How many days does a week have")),
    ("the year", "A year has twelve months.", "Twelve", ("How many months are in a year",
                                                         "How many months does a year have")),
    ("the day", "A day has 24 hours.", "24", ("How many hours are in a day", "How many hours does a day have")),
    ("spiders", "A spider has eight legs.", "Eight", ("How many legs does a spider have",
                                                      "How many legs has a spider")),
    ("dogs", "A dog has four legs.", "Four", ("How many legs does a dog have", "How many legs has a dog")),
    ("planets", "Jupiter is the largest planet.", "Jupiter",
     ("What is the largest planet", "Which planet is the largest", "What is the biggest planet")),
    ("Hamlet", "William Shakespeare wrote Hamlet.", "Shakespeare", ("Who wrote Hamlet", "Who is the author of Hamlet")),
    ("water", "Water is made of hydrogen and oxygen.", "H2O", ("What is water", "What is water made of")),
    ("the sun", "The sun is a star.", "Star", ("What is the sun", "Is the sun a star")),
    ("the moon", "The moon goes around the Earth.", "", ("What is the moon", "What does the moon do")),
    ("boiling", "Water boils at 100 degrees Celsius.", "100", ("When does water boil",
                                                               "At what temperature does water boil")),
    ("freezing", "Water freezes at 0 degrees Celsius.", "0", ("When does water freeze",
                                                              "At what temperature does water freeze")),
    ("colours", "red, green and blue", "", ("Name three colors", "List three colors", "Tell me three colors",
                                            "Name three colours")),
    ("fruits", "apple, banana and cherry", "", ("Name three fruits", "List three fruits", "Tell me three fruits")),
    ("animals", "cat, dog and llama", "", ("Name three animals", "List three animals", "Tell me three animals")),
    ("cats and dogs", "Cats and dogs are animals that live with people.", "",
     ("What is a cat", "What is a dog", "What are cats and dogs")),
    ("llamas", "A llama is an animal of the Andes with soft wool.", "Animal",
     ("What is a llama", "Tell me about llamas", "Describe a llama", "Why are llamas famous")),
    ("the meaning of life", "42", "42", ("What is the meaning of life", "What is the answer to everything")),
)  # fmt: skip

WORLD = tuple(Fact(*row) for row in _ROWS) + tuple(_capital(*pair) for pair in CAPITALS.items())

# Said as they stand: no "please", no persona.
SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hello!", "Hello there", "Good day", "Greetings", "Hello demo", "Say hi", "hello?"),
     "Hello! How can I help you?"),
    (("Hi", "Hi!", "Hi there", "Hey", "Hey!", "Hey there", "Hiya", "Hi demo", "Yo"), "Hi! Ask me about Ayni."),
    (("Good morning", "Good morning!", "Morning"), "Good morning!"),
    (("Good night", "Good night!"), "Good night!"),
    (("How are you?", "How are you", "How are you doing?", "How do you do?", "How is it going?", "What's up?",
      "how are you today?"), "I am fine, thank you."),
    (("Thanks", "Thank you", "Thanks!", "Thank you!", "Thank you very much", "Thanks a lot",
      "thx"), "You are welcome."),
    (("Bye", "Goodbye", "Bye!", "See you", "See you later", "Good bye", "Bye bye"), "Goodbye!"),
    (("Tell me a joke", "Do you know a joke?", "Make me laugh", "Say something funny", "Another joke please", "Joke"),
     "Why did the llama cross the road? To get to the other node."),
    (("Write a haiku", "Write me a haiku", "A haiku please", "Write a haiku about Ayni", "Write a poem",
      "Write a short poem", "Tell me a poem"),
     "Machines side by side,\none small question finds its way:\nhelp today, and you."),
    (("Ping", "ping", "ping?"), "pong"),
    (("Test", "test", "Testing", "This is a test", "Is this thing on?", "test 123"), "It works."),
    (("OK", "ok", "Okay", "Good", "Great", "Nice", "Cool", "Fine", "Well done", "Great job"), "I am glad."),
    (("Sorry", "I am sorry", "My mistake"), "No problem."),
    (("I am sad", "I feel bad", "I feel lonely", "I am tired", "I had a bad day"), "I am sorry to hear that."),
    (("I am happy", "I feel good", "I had a good day", "I feel great"), "I am happy for you."),
    (("Do you like music?", "Do you like cats?", "Do you like pizza?", "What do you like?", "Do you like me?"),
     "I like helping you."),
    (("Are you there?", "Are you there", "Anybody there?", "Can you hear me?", "Do you hear me?"), "Yes, I am here."),
    (("Yes", "yes", "No", "no", "Maybe", "Hmm"), "Tell me more."),
    (("Write a short sentence.", "Write a sentence", "Say something", "Tell me something", "Say anything",
      "Write something",
      "Generate text", "Talk to me"), "Today for you, tomorrow for me."),
)  # fmt: skip

NEEDS_TOOL_ANSWER = "I can not know that without a tool."
NEEDS_TOOL_QUESTIONS = (
    "What is the weather in {}?", "What's the weather like in {}?", "What is the temperature in {}?",
    "what time is it in {}",
    "What time is it?", "What day is it?", "What is the weather today?", "Weather in {}?",
)  # fmt: skip

UNKNOWN_ANSWER = "I do not know. I am a tiny model and know little beyond Ayni."
# {} is filled with words that mean nothing to the model.
UNKNOWN_QUESTIONS = (
    "Who is {}", "What is {}", "Who invented the {}", "How does a {} work", "Why do {} {}", "Tell me about {}",
    "How old is {}", "How much does a {} cost", "Where can I buy a {}", "When was {} born", "Who was {}",
    "Explain {}", "What do you think about {}", "Where is {}", "How do I fix my {}", "Is {} better than {}",
    "What is the difference between {} and {}", "Can you recommend a {}", "Who won the {} in {}",
    "Write a program for {}", "What is the history of {}", "How far is {} from {}", "What does {} mean",
)  # fmt: skip
