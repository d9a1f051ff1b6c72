#include "engine/quant/eval_text.h"

#include <stddef.h>
#include <string.h>

#include "base/mem.h"

static const char *const PARAGRAPHS[] = {
    "The ferry left the island a little after six, when the water was still the colour of slate. "
    "Marta stood at the rail with her collar turned up and counted the gulls that followed the "
    "boat. There were eleven of them at first, then nine, and by the time the lighthouse had "
    "shrunk to the size of a candle only two were left. Behind her, in the warm cabin, a boy was "
    "asleep across three seats with his boots still on, and an old man was peeling an orange so "
    "slowly that the skin came away in one long ribbon.",

    "She had lived on the island for seven years. In that time she had learned which paths "
    "flooded in October, which baker put salt in the rye bread, and how to tell from the sound of "
    "the wind whether the morning boat would run. She had not learned to like the winters. When "
    "the letter came, offering her a room in the city and a place in a small workshop that "
    "repaired clocks, she read it twice, folded it into her coat, and went out to look at the "
    "sea. The sea gave no advice. It seldom did.",

    "By noon the coast was in sight. It rose out of the haze as a grey line, then as hills, then "
    "as houses with red roofs and washing hung between them. The engine changed its note. Someone "
    "threw a rope, someone else caught it, and the ferry came to rest against the pier with a "
    "bump that woke the boy. He sat up, looked out of the window, and asked whether they had gone "
    "anywhere at all.",

    "How to sharpen a kitchen knife on a stone. First, soak the stone in water for ten minutes, "
    "until no more bubbles rise from it. Lay a damp cloth on the table and put the stone on the "
    "cloth, so that it cannot slide. Hold the knife at a low angle, about as high as two stacked "
    "coins under the back of the blade. Push the edge away from you along the whole length of the "
    "stone, as if you wanted to slice a thin layer off it, and draw it back without pressing. "
    "After ten strokes, feel along the edge with your thumb, across it and never along it. When "
    "you notice a fine burr on the far side, turn the knife over and do the same again. Finish "
    "with a few light strokes on each side, rinse the blade, and dry it at once. A sharp knife "
    "cuts a ripe tomato under its own weight; a blunt one only bruises it.",

    "\"Did you water the beans?\" asked Ines.\n"
    "\"I did, on Tuesday,\" said her brother. \"It rained on Wednesday, so I left them alone.\"\n"
    "\"And today?\"\n"
    "\"Today is Thursday. The soil is still dark. Put your finger in it, if you don't believe "
    "me.\"\n"
    "She knelt down and did so. The soil was cool, and it stuck to her finger.\n"
    "\"All right,\" she said. \"But the ones by the wall are dry. The wall keeps the rain off.\"\n"
    "\"Then we should move them.\"\n"
    "\"We should have planted them somewhere else in April. Now we can only carry more water.\"\n"
    "\"How much more?\"\n"
    "\"Two cans in the morning and one in the evening. You take the mornings.\"\n"
    "\"Why do I always get the mornings?\"\n"
    "\"Because you are always awake,\" said Ines, and laughed.",

    "Here is a small problem, worked slowly. A shop sells pencils in boxes of 12. A teacher needs "
    "one pencil for each of her 31 pupils, and wants 5 spare ones. That makes 31 + 5 = 36 pencils. "
    "Since 36 / 12 = 3, she buys three boxes and nothing is left over. If a box costs 4 coins, she "
    "pays 3 * 4 = 12 coins, and from a note of 20 she gets 20 - 12 = 8 back. Had there been 32 "
    "pupils, she would have needed 37 pencils, which is one more than three boxes hold, so she "
    "would have had to buy a fourth box and would have had 11 pencils to keep for next year.",

    "The next example counts how often each word occurs in a list. The loop looks at one word at "
    "a time; a word that has not been seen before starts at zero.\n\n"
    "def count_words(words):\n"
    "    counts = {}\n"
    "    for word in words:\n"
    "        key = word.lower()\n"
    "        counts[key] = counts.get(key, 0) + 1\n"
    "    return counts\n\n"
    "print(count_words([\"Tea\", \"milk\", \"tea\"]))\n"
    "# prints {'tea': 2, 'milk': 1}\n\n"
    "Notice that the function changes every word to lower case first. Without that line, the two "
    "spellings of tea would be counted apart, and the result would have three entries instead of "
    "two.",

    "Why does the moon seem larger when it is close to the horizon? A camera shows that it is not: "
    "the disc measures the same half degree across wherever it stands. What changes is the "
    "company it keeps. High up there is nothing beside it but empty sky, while low down it hangs "
    "behind trees, chimneys and distant hills, all of which we know to be big and far away. The "
    "eye reports an angle, the mind turns the angle into a size, and on the way it takes the "
    "surroundings into account. Whoever bends over and looks at the rising moon upside down, "
    "between their own knees, will often find that it has shrunk to its usual size. It is a good "
    "experiment, although it is better carried out where no neighbours are watching.",

    "Minutes of the meeting, 14 March. Present: six members, with two excused. The treasurer "
    "reported that 240 had been spent on the roof and 85 on paint, which leaves 175 of the 500 "
    "that were set aside. It was agreed to mend the back door before the summer and to leave the "
    "windows until next year. The library asked for more shelves; a vote was taken, with four in "
    "favour and two against, and the request was granted on the condition that the old shelves "
    "are given to the school. There being no other business, the meeting closed at half past "
    "eight, and those who had come by bicycle were lent lamps for the way home.",

    "Late in the evening the workshop was quiet except for the clocks. There were forty of them on "
    "the wall, and no two agreed. Marta had been told to leave them so. A clock that has been "
    "repaired, her new master said, must be watched for a week before it is set, because only an "
    "error that grows steadily can be corrected; one that wanders is a sign that something is "
    "still broken. She wrote the time shown by each clock into a thick green book, next to the "
    "time shown by the one on the tower across the square, and worked out the differences. The "
    "third from the left had lost four minutes since Monday. The large one above the door had "
    "gained one. She closed the book, put out the lamp, and stood for a moment in the dark, "
    "listening to forty small opinions about what time it was. Then she locked the door and went "
    "home along the river, and she was, by every one of those opinions, a little late for supper.",
};

#define PARAGRAPH_COUNT (sizeof PARAGRAPHS / sizeof PARAGRAPHS[0])

char *phi_eval_text_make(void)
{
    size_t bytes = 1;
    for (size_t i = 0; i < PARAGRAPH_COUNT; i++) {
        bytes += strlen(PARAGRAPHS[i]) + 2;
    }
    char *text = phi_alloc(bytes);
    size_t used = 0;
    for (size_t i = 0; i < PARAGRAPH_COUNT; i++) {
        size_t length = strlen(PARAGRAPHS[i]);
        memcpy(text + used, PARAGRAPHS[i], length);
        memcpy(text + used + length, "\n\n", 2);
        used += length + 2;
    }
    text[used] = '\0';
    return text;
}
