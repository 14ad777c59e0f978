"""The words of the world in six languages, with the forms that agreement asks for. Data only."""

# shape -> (singular, plural, gender); "" is the general noun
NOUNS: dict[str, dict[str, tuple[str, str, str]]] = {
    "en": {
        "circle": ("circle", "circles", ""),
        "square": ("square", "squares", ""),
        "triangle": ("triangle", "triangles", ""),
        "star": ("star", "stars", ""),
        "heart": ("heart", "hearts", ""),
        "cross": ("cross", "crosses", ""),
        "": ("shape", "shapes", ""),
    },
    "zh": {
        "circle": ("圆形", "圆形", ""),
        "square": ("正方形", "正方形", ""),
        "triangle": ("三角形", "三角形", ""),
        "star": ("星形", "星形", ""),
        "heart": ("心形", "心形", ""),
        "cross": ("十字形", "十字形", ""),
        "": ("图形", "图形", ""),
    },
    "es": {
        "circle": ("círculo", "círculos", "m"),
        "square": ("cuadrado", "cuadrados", "m"),
        "triangle": ("triángulo", "triángulos", "m"),
        "star": ("estrella", "estrellas", "f"),
        "heart": ("corazón", "corazones", "m"),
        "cross": ("cruz", "cruces", "f"),
        "": ("figura", "figuras", "f"),
    },
    "fr": {
        "circle": ("cercle", "cercles", "m"),
        "square": ("carré", "carrés", "m"),
        "triangle": ("triangle", "triangles", "m"),
        "star": ("étoile", "étoiles", "f"),
        "heart": ("cœur", "cœurs", "m"),
        "cross": ("croix", "croix", "f"),
        "": ("forme", "formes", "f"),
    },
    "de": {
        "circle": ("Kreis", "Kreise", "m"),
        "square": ("Quadrat", "Quadrate", "n"),
        "triangle": ("Dreieck", "Dreiecke", "n"),
        "star": ("Stern", "Sterne", "m"),
        "heart": ("Herz", "Herzen", "n"),
        "cross": ("Kreuz", "Kreuze", "n"),
        "": ("Form", "Formen", "f"),
    },
    "hi": {
        "circle": ("वृत्त", "वृत्त", "m"),
        "square": ("वर्ग", "वर्ग", "m"),
        "triangle": ("त्रिभुज", "त्रिभुज", "m"),
        "star": ("तारा", "तारे", "m"),
        "heart": ("दिल", "दिल", "m"),
        "cross": ("क्रॉस", "क्रॉस", "m"),
        "": ("आकृति", "आकृतियाँ", "f"),
    },
}

# attribute value -> its forms. en, zh: one. es, fr: masculine, feminine, and their plurals. de: stem, and ""
# or the stem again where it takes no ending. hi: masculine, feminine, masculine oblique or plural.
ADJECTIVES: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        **{c: (c,) for c in ("red", "green", "blue", "yellow", "orange", "purple", "pink", "black")},
        "small": ("small",),
        "large": ("large",),
    },
    "zh": {
        "red": ("红色",),
        "green": ("绿色",),
        "blue": ("蓝色",),
        "yellow": ("黄色",),
        "orange": ("橙色",),
        "purple": ("紫色",),
        "pink": ("粉色",),
        "black": ("黑色",),
        "small": ("小",),
        "large": ("大",),
    },
    "es": {
        "red": ("rojo", "roja", "rojos", "rojas"),
        "green": ("verde", "verde", "verdes", "verdes"),
        "blue": ("azul", "azul", "azules", "azules"),
        "yellow": ("amarillo", "amarilla", "amarillos", "amarillas"),
        "orange": ("naranja", "naranja", "naranjas", "naranjas"),
        "purple": ("morado", "morada", "morados", "moradas"),
        "pink": ("rosa", "rosa", "rosas", "rosas"),
        "black": ("negro", "negra", "negros", "negras"),
        "small": ("pequeño", "pequeña", "pequeños", "pequeñas"),
        "large": ("grande", "grande", "grandes", "grandes"),
    },
    "fr": {
        "red": ("rouge", "rouge", "rouges", "rouges"),
        "green": ("vert", "verte", "verts", "vertes"),
        "blue": ("bleu", "bleue", "bleus", "bleues"),
        "yellow": ("jaune", "jaune", "jaunes", "jaunes"),
        "orange": ("orange", "orange", "orange", "orange"),
        "purple": ("violet", "violette", "violets", "violettes"),
        "pink": ("rose", "rose", "roses", "roses"),
        "black": ("noir", "noire", "noirs", "noires"),
        "small": ("petit", "petite", "petits", "petites"),
        "large": ("grand", "grande", "grands", "grandes"),
    },
    "de": {
        "red": ("rot", ""),
        "green": ("grün", ""),
        "blue": ("blau", ""),
        "yellow": ("gelb", ""),
        "orange": ("orange", "orange"),
        "purple": ("lila", "lila"),
        "pink": ("rosa", "rosa"),
        "black": ("schwarz", ""),
        "small": ("klein", ""),
        "large": ("groß", ""),
    },
    "hi": {
        "red": ("लाल", "लाल", "लाल"),
        "green": ("हरा", "हरी", "हरे"),
        "blue": ("नीला", "नीली", "नीले"),
        "yellow": ("पीला", "पीली", "पीले"),
        "orange": ("नारंगी", "नारंगी", "नारंगी"),
        "purple": ("बैंगनी", "बैंगनी", "बैंगनी"),
        "pink": ("गुलाबी", "गुलाबी", "गुलाबी"),
        "black": ("काला", "काली", "काले"),
        "small": ("छोटा", "छोटी", "छोटे"),
        "large": ("बड़ा", "बड़ी", "बड़े"),
    },
}

# place -> (as an answer, as part of a sentence)
PLACE_WORDS: dict[str, dict[str, tuple[str, str]]] = {
    "en": {
        "top left": ("top left", "at the top left"),
        "top": ("top", "at the top"),
        "top right": ("top right", "at the top right"),
        "left": ("left", "on the left"),
        "center": ("center", "in the center"),
        "right": ("right", "on the right"),
        "bottom left": ("bottom left", "at the bottom left"),
        "bottom": ("bottom", "at the bottom"),
        "bottom right": ("bottom right", "at the bottom right"),
    },
}
_ONE_FORM_PLACES = {
    "zh": ("左上方", "上方", "右上方", "左边", "中间", "右边", "左下方", "下方", "右下方"),
    "es": (
        "arriba a la izquierda",
        "arriba",
        "arriba a la derecha",
        "a la izquierda",
        "en el centro",
        "a la derecha",
        "abajo a la izquierda",
        "abajo",
        "abajo a la derecha",
    ),
    "fr": (
        "en haut à gauche",
        "en haut",
        "en haut à droite",
        "à gauche",
        "au centre",
        "à droite",
        "en bas à gauche",
        "en bas",
        "en bas à droite",
    ),
    "de": (
        "oben links",
        "oben",
        "oben rechts",
        "links",
        "in der Mitte",
        "rechts",
        "unten links",
        "unten",
        "unten rechts",
    ),
    "hi": (
        "ऊपर बाईं ओर",
        "ऊपर",
        "ऊपर दाईं ओर",
        "बाईं ओर",
        "बीच में",
        "दाईं ओर",
        "नीचे बाईं ओर",
        "नीचे",
        "नीचे दाईं ओर",
    ),
}
PLACE_WORDS |= {
    language: {place: (word, word) for place, word in zip(PLACE_WORDS["en"], words, strict=True)}
    for language, words in _ONE_FORM_PLACES.items()
}

# relation -> pattern around the second thing, in its "of" form
RELATION_PATTERNS: dict[str, dict[str, str]] = {
    "en": {"left": "left of {}", "right": "right of {}", "above": "above {}", "below": "below {}"},
    "zh": {"left": "{}的左边", "right": "{}的右边", "above": "{}的上方", "below": "{}的下方"},
    "es": {
        "left": "a la izquierda {}",
        "right": "a la derecha {}",
        "above": "encima {}",
        "below": "debajo {}",
    },
    "fr": {"left": "à gauche {}", "right": "à droite {}", "above": "au-dessus {}", "below": "au-dessous {}"},
    "de": {"left": "links von {}", "right": "rechts von {}", "above": "über {}", "below": "unter {}"},
    "hi": {"left": "{} के बाईं ओर", "right": "{} के दाईं ओर", "above": "{} के ऊपर", "below": "{} के नीचे"},
}
# relation -> answer
RELATION_ANSWERS: dict[str, dict[str, str]] = {
    "en": {"left": "left", "right": "right", "above": "above", "below": "below"},
    "zh": {"left": "左边", "right": "右边", "above": "上方", "below": "下方"},
    "es": {"left": "a la izquierda", "right": "a la derecha", "above": "encima", "below": "debajo"},
    "fr": {"left": "à gauche", "right": "à droite", "above": "au-dessus", "below": "au-dessous"},
    "de": {"left": "links", "right": "rechts", "above": "über", "below": "unter"},
    "hi": {"left": "बाईं ओर", "right": "दाईं ओर", "above": "ऊपर", "below": "नीचे"},
}
# direction of motion -> answer and adverb
DIRECTION_WORDS: dict[str, dict[str, str]] = {
    "en": {"right": "right", "left": "left", "up": "up", "down": "down"},
    "zh": {"right": "向右", "left": "向左", "up": "向上", "down": "向下"},
    "es": {
        "right": "hacia la derecha",
        "left": "hacia la izquierda",
        "up": "hacia arriba",
        "down": "hacia abajo",
    },
    "fr": {"right": "vers la droite", "left": "vers la gauche", "up": "vers le haut", "down": "vers le bas"},
    "de": {"right": "nach rechts", "left": "nach links", "up": "nach oben", "down": "nach unten"},
    "hi": {"right": "दाईं ओर", "left": "बाईं ओर", "up": "ऊपर की ओर", "down": "नीचे की ओर"},
}
YES_NO = {
    "en": ("yes", "no"),
    "zh": ("有", "没有"),
    "es": ("sí", "no"),
    "fr": ("oui", "non"),
    "de": ("ja", "nein"),
    "hi": ("हाँ", "नहीं"),
}
AND = {"en": " and ", "zh": "，", "es": " y ", "fr": " et ", "de": " und ", "hi": " और "}
FULL_STOP = {"en": ".", "zh": "。", "es": ".", "fr": ".", "de": ".", "hi": "।"}
