"""Which sequence of which patient a file or a DICOM series of brain MR is, by its name, and where names leave doubt.

One set of rules for names of files, of folders and for series' descriptions. A name is cut into words, and each word
says a weighting (t1, t2, flair), a contrast medium or its absence, another kind of image (diffusion, angiography, a
map), how it was acquired (which decides nothing), or nothing that is known here.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

SEQUENCES = ("t1", "t1ce", "t2", "flair")
ALIASES = {
    "t1": "t1", "t1n": "t1", "t1w": "t1", "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce", "t1post": "t1ce",
    "t2": "t2", "t2w": "t2", "flair": "flair", "fla": "flair", "t2f": "flair",
}  # fmt: skip

_AGENT = (
    "contrast contrasted contraste contrasto kontrast kontrastmittel km gd gad gado gadolinium gadovist gadavist "
    "gadobutrol gadoterate dotarem magnevist prohance multihance omniscan clariscan ce ci mdc enhanced enhancement enh "
    "c plusc iv injection injected inj injecte"
)
_AFTER = "post after nach apres dopo postcontrast postgd postgad postgado postkm cemr"
_NATIVE = "pre native nativ nativo natif plain precontrast pregd pregad nongd nongad noncontrast unenhanced nonenhanced"
_WITHOUT = "without wo no non not none ohne vor before prior sin sans avant sem senza kein keine minus"
_WITH = "with mit avec con com plus"
_OTHER_KINDS = (
    "dwi diff diffusion adc eadc trace tracew dti dki tensor fa md colfa swi swan star t2star perfusion perf pwi "
    "dsc dce asl cbf cbv rcbv mtt ttp tmax bold fmri epi ep2d mra tof angio angiography venography mrv mrs "
    "spectroscopy svs csi localizer localiser loc scout survey calibration cal fieldmap map maps mapping "
    "relaxometry rho subtraction subtracted mip minip stir pd pdw proton ciss fiesta cine phase qsm mtr cest ratio "
    "mask label gt roi screenshot"
)
_TECHNIQUE = (
    "ax axial tra trans transversal sag sagittal cor coronal obl 2d 3d w wi weighted se tse fse tfe ffe gre ir fs fat "
    "sat space spc cube vista vibe dixon iso isotropic flash fl2d fl3d mp mpr mprage spgr fspgr bravo tirm tir blade "
    "propeller acq rec"
)
_T1_TECHNIQUES = {"mprage", "spgr", "fspgr", "bravo"}  # T1 where nothing else is said
_GRADIENT_ECHO = {"gre", "ffe", "hemo", "heme", "flash", "fl2d"}  # a T2 made by these is a T2*
_AHEAD = {
    *_TECHNIQUE.split(),
    *["pre", "post", "ce", "gd", "gad", "gado", "gadolinium", "contrast", "without", "with", "no", "non"],
} | {*["dwi", "diff", "adc", "swi", "dti", "perf", "asl", "tof", "mra"]}
# "post op", "no fat sat", "pre sat": what follows is no contrast medium
_NO_CONTRAST = re.compile(
    r"(op|oper\w*|surg\w*|rt|radi\w*|chemo\w*|treat\w*|resect\w*|fs|fat\w*|sat|mt|mtc|gap|angle)$"
)
_SAYS = {
    word: meaning
    for meaning, words in {
        "agent": _AGENT, "after": _AFTER, "native": _NATIVE, "without": _WITHOUT, "with": _WITH, "kind": _OTHER_KINDS,
        "technique": _TECHNIQUE,
    }.items()
    for word in words.split()
}  # fmt: skip
_COMPOUND = re.compile(r"(?:e|s|2d|3d|ax|sag|cor|tra)?(t1|t2|flair|fla)((?:[a-z]|[23]d)*)")
_ENDS = sorted([*_SAYS, "n", "f", "flair", "fla", "c"], key=len, reverse=True)


@dataclass(frozen=True)
class Telling:
    """What a name tells.

    Attributes:
        subject: what stands before the words that tell.
        sequence: one of SEQUENCES, "label" for a segmentation, None for anything else or where there is doubt.
        candidates: the sequences that it may be, where there is doubt.
        why: the reason of the doubt, or which other kind of image it is, in words.
        explicit: contrast medium, or its absence, is said.
    """

    subject: str = ""
    sequence: str | None = None
    candidates: tuple[str, ...] = ()
    why: str = ""
    explicit: bool = False

    @property
    def silent(self) -> bool:
        return self.sequence is None and not self.candidates and not self.why

    def doubted(self, candidates: tuple[str, ...], why: str) -> Telling:
        return replace(self, sequence=None, candidates=candidates, why=why)


def told_by_file(path: str | Path) -> Telling:
    """What the name of an image file tells: the subject, then the words of a sequence, from the first to the last.

    >>> told_by_file("sub-1_t1_post.nii.gz"), told_by_file("sub-1_t1_t2.nii").candidates
    (Telling(subject='sub-1', sequence='t1ce', candidates=(), why='', explicit=True), ('t1', 't2'))
    """
    text = stem(path)
    words = list(re.finditer(r"[^-_.\s]+", text))
    label = next((w for w in words if w.group().lower().startswith("seg")), None)
    if label:
        return Telling(text[: label.start()].rstrip("-_. "), "label")
    meanings = [_meanings(w.group().lower()) for w in words]
    weighted = [n for n, meaning in enumerate(meanings) if {"t1", "t2", "flair"} & {*meaning}]
    if not weighted:
        return Telling(text)
    first = weighted[-1]
    # few words: what stands ahead may be a subject's name, as in C_t1 or plain_t1ce
    while first > 0 and (words[first - 1].group().lower() in _AHEAD or first - 1 in weighted):
        first -= 1
    told = told_by_title(text[words[first].start() :])
    # a T1 further ahead may be part of a subject's name, but is never passed over
    ahead = {meaning for n in weighted if n < first for meaning in meanings[n]} & {"t1", "t2", "flair"}
    if told.sequence and not ahead <= {*meanings[weighted[-1]], told.sequence}:
        told = told.doubted(
            tuple(s for s in SEQUENCES if s in ahead | {told.sequence}), "its name tells several weightings"
        )
    return replace(told, subject=text[: words[first].start()].rstrip("-_. "))


def told_by_title(title: str) -> Telling:
    """What a series' description, or a folder's name, tells.

    >>> [told_by_title(t).sequence for t in ("AX T1 WITHOUT CONTRAST", "AX T1 +C", "T1 POST GD FLAIR", "DWI T2")]
    ['t1', 't1ce', 't1ce', None]
    >>> told_by_title("T1 W/WO CONTRAST").candidates
    ('t1', 't1ce')
    """
    said, words = [], []
    for word in _spaced(title).split():
        for meaning in _meanings(word) or ["unknown"]:
            said.append(meaning)
            words.append(word)
    weights = {w for w in said if w in ("t1", "t2", "flair")}
    if not weights and _T1_TECHNIQUES & {*words}:
        weights = {"t1"}
    if not weights:
        return Telling()
    kinds = [word for word, meaning in zip(words, said) if meaning == "kind"]
    if kinds:
        return Telling(why=f"{kinds[0]} is another kind of image")
    enhanced, native = _contrast(said, words)
    told = Telling(explicit=enhanced or native)
    if {"t1", "t2"} <= weights:
        return told.doubted(
            tuple(s for s in ("t1", "t2", "flair") if s in weights), "its name tells several weightings"
        )
    if "t1" in weights:  # T1 FLAIR is a T1 with an inversion pulse
        if enhanced and native:
            return told.doubted(("t1", "t1ce"), "its name tells both with and without contrast medium")
        return replace(told, sequence="t1ce" if enhanced else "t1")
    if "flair" in weights:
        return replace(told, sequence="flair")
    if _GRADIENT_ECHO & {*words}:
        return told.doubted(("t2",), "a gradient echo is a T2*")
    if {"tirm", "tir", "ir"} & {*words}:
        return told.doubted(("t2", "flair"), "its name tells an inversion pulse but not which")
    return replace(told, sequence="t2")


def _spaced(title: str) -> str:
    """Lower case, signs of contrast medium as words, all else but letters and digits as blanks."""
    text = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"\bt2\s?\*", " t2star ", text)
    text = re.sub(r"\bdark[-_ ]?fluid\b", " flair ", text.replace("_", " "))
    text = re.sub(r"\bw\s?/\s?wo?\b|\bw\s?&\s?w\s?/?\s?o\b|\bwo\s?/\s?w\b", " with contrast without contrast ", text)
    text = re.sub(r"\bw\s?/\s?o\b", " without ", text)
    text = re.sub(r"\bw\s?/", " with ", text)
    text = re.sub(r"(?<=\s)-\s?(c|gd|gad|km)\b|\b(c|gd|gad|km)-(?=\s|$)", " without contrast ", text)
    text = re.sub(r"\+\s?c\b|\bc\s?\+", " plusc ", text)
    text = re.sub(r"\+", " plus ", text)
    text = re.sub(r"\b(post|pre|non|un)[- ](?=contrast|gd|gad|km|enhanced)", r"\1 ", text)
    return re.sub(r"[^a-z0-9]+", " ", text)


def _meanings(word: str) -> list[str]:
    """What a word says, several things where it is a compound such as t1wgd; [] where it is not known."""
    if word in _SAYS:
        return [_SAYS[word]]
    if re.fullmatch(r"b\d{1,4}", word):
        return ["kind"]
    compound = _COMPOUND.fullmatch(word)
    if compound is None:
        return []
    weight, rest = compound.groups()
    said = ["flair" if weight == "fla" else weight]
    while rest:
        end = next((e for e in _ENDS if rest.startswith(e)), None)
        if end is None:
            return []
        rest = rest[len(end) :]
        if end in ("flair", "fla") or (end == "f" and weight == "t2"):
            said.append("flair")
        elif end == "n":
            said.append("native")
        elif end in _SAYS:
            said.append("sure" if _SAYS[end] in ("agent", "after") else _SAYS[end])  # t1ce, t1post: whatever precedes
        else:
            return []
    return said


def _contrast(said: list[str], words: list[str]) -> tuple[bool, bool]:
    """(enhanced, native): whether the words tell a contrast medium, and whether they tell that there is none."""
    enhanced = native = False
    denied = 0  # how many more words a "without" reaches
    for n, (meaning, word) in enumerate(zip(said, words)):
        following = words[n + 1] if n + 1 < len(words) else ""
        if meaning in ("after", "native", "without", "sure") and _NO_CONTRAST.match(following):
            continue
        if meaning == "without" and n and said[n - 1] == "agent" and not following:
            continue  # "contrast: no", told at "contrast"
        if meaning == "native" or meaning == "without":
            agent = {"agent", "after"} & {*said[n + 1 : n + 4]}
            # "pre", and a "without" that nothing follows, mean the contrast medium
            native = native or meaning == "native" or bool(agent) or following == ""
            denied = 3
        elif meaning == "with" and word != "plus":
            denied = 0
            enhanced = enhanced or following == ""
        elif meaning == "with":
            enhanced = enhanced or following == ""
        elif meaning == "sure":
            enhanced = True
        elif meaning == "agent" and following in ("no", "none", "nil"):
            native = True
        elif meaning in ("agent", "after") and not denied:
            enhanced = True
        elif meaning == "after":  # "pre and post", but not "no post"
            enhanced = enhanced or words[n - 1] in ("pre", "and", "unknown")
        denied = max(0, denied - 1)
    return enhanced, native


def named(path: str | Path) -> tuple[str, str | None]:
    """(subject, sequence) in a file's name; the sequence is "label" for a segmentation, None for anything else.

    >>> named("BraTS-GLI-00001-000-t2f.nii.gz"), named("BraTS20_Training_001_seg.nii")
    (('BraTS-GLI-00001-000', 'flair'), ('BraTS20_Training_001', 'label'))
    """
    told = told_by_file(path)
    return told.subject, told.sequence


def stem(path: str | Path) -> str:
    """A file's name without .nii or .nii.gz, or a pair's without .hdr."""
    return re.sub(r"\.(nii(\.gz)?|hdr)$", "", Path(path).name, flags=re.IGNORECASE)


@dataclass(frozen=True)
class Acquisition:
    """What a series' header, or the JSON beside a NIfTI, says of how it was acquired.

    Attributes:
        number, title: of the series, as text.
        agent: contrast medium that was given, "" if none is named.
        echo_ms, inversion_ms, diffusion: echo time, inversion time and b-value (s/mm2); None where they are absent.
    """

    number: str = ""
    title: str = ""
    agent: str = ""
    echo_ms: float | None = None
    inversion_ms: float | None = None
    diffusion: float | None = None


SHORT_ECHO_MS = 45.0  # T1 spin echoes have 8-25, gradient echoes 2-10; T2 and FLAIR 70 and more
FLUID_INVERSION_MS = 1350.0  # liquor is nulled at 1650-2800; a T1 FLAIR has 700-1250


def checked_by_acquisition(told: Telling, made: Acquisition) -> Telling:
    """What a name tells, against the figures of the acquisition: they turn a t1 to t1ce, or a sequence to a doubt.

    >>> made = Acquisition(agent="Dotarem", echo_ms=11.0)
    >>> checked_by_acquisition(told_by_title("AX T1"), made).sequence
    't1ce'
    >>> checked_by_acquisition(told_by_title("AX T2"), made).why
    'its echo time of 11 ms is none of a T2'
    """
    if told.sequence not in SEQUENCES:
        return told
    if made.diffusion:
        return Telling(told.subject, why=f"a b-value of {made.diffusion:g} is diffusion")
    if told.sequence == "t1" and made.agent:
        if told.explicit:
            why = f"its name tells no contrast medium but its header {made.agent}"
            return told.doubted(("t1", "t1ce"), why)
        told = replace(told, sequence="t1ce", explicit=True)
    family = "T1" if told.sequence in ("t1", "t1ce") else {"t2": "T2", "flair": "FLAIR"}[str(told.sequence)]
    if made.echo_ms and (made.echo_ms > SHORT_ECHO_MS) == (family == "T1"):
        others = ("t2", "flair") if family == "T1" else ("t1", "t1ce")
        return told.doubted(
            (str(told.sequence), *others), f"its echo time of {made.echo_ms:g} ms is none of a {family}"
        )
    if made.inversion_ms and (made.inversion_ms > FLUID_INVERSION_MS) != (family == "FLAIR"):
        candidates = ("t2", "flair") if family != "T1" else (str(told.sequence), "flair")
        return told.doubted(candidates, f"its inversion time of {made.inversion_ms:g} ms is none of a {family}")
    return told
