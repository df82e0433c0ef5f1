"""Facts of the published data sets: source, licence, folder layouts, splits and class names.

Nothing is downloaded: the sets come from their authors, and most state no licence. `tectum data list` prints these
facts, docs/data.md has them as tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tectum.kinds import KINDS, Kind


@dataclass(frozen=True)
class KnownSet:
    """Facts of a published set of pairs."""

    title: str  # with authors and year
    folders: tuple[str, ...]  # names its folder goes by
    url: str  # where it comes from
    layouts: tuple[tuple[str, str], ...] = ()
    """(visible, infrared) below its folder, or a and b of its kind; `{split}` stands for train or test, `{part}` for
    what the set calls them; before the layouts of the kind. `tectum.data.folders` says what a side may be."""
    licence: str = "none stated"  # as its source states it; "none stated" is no permission
    size: str = "varies"  # of the images, width x height
    splits: dict[str, int] = field(default_factory=dict)  # how many pairs each part has as published
    masks: tuple[str, ...] = ()  # names of the mask classes, in the order of their numbers, background included
    boxes: tuple[str, ...] = ()  # names of the box classes, in the order of their numbers
    unordered: bool = False  # the numbers in YOLO text files in circulation have no one order
    test_list: str | None = None  # the packaged list of the test part, where folders and lists do not say
    every: int = 0  # one pair in so many is drawn as test part where nothing says so; 0 draws none
    tree: tuple[str, ...] = ()  # what its authors' folder holds, a line each
    steps: str = ""  # what the user must do
    kind: str = "infrared"  # of its pairs, a key of KINDS
    sides: tuple[tuple[str, str], ...] = ()  # folder names of a and b, where they are not just any of the kind's
    parts: Mapping[str, str] = field(default_factory=dict)  # what it calls its parts
    brighter: bool = False  # its files do not say which exposure is which; a is the brighter one

    @property
    def pair_kind(self) -> Kind:
        """The `Kind` of the pairs, of the name `kind`."""
        return KINDS[self.kind]


_ROAD = ("background", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")

DATASETS: dict[str, KnownSet] = {
    "msrs": KnownSet(
        "MSRS, Tang et al. 2022",
        ("msrs", "msrs-main"),
        "https://github.com/Linfeng-Tang/MSRS",
        size="640x480",
        splits={"train": 1083, "test": 361},
        masks=_ROAD,
        boxes=("person", "bicycle", "car"),
        tree=(
            "{train,test}/{vi,ir}/00001D.png",
            "{train,test}/Segmentation_labels/00001D.png (class numbers)",
            "detection/{vi,ir,labels}/1.txt (boxes for 80 pairs)",
        ),
        steps="Unpack the repository. Car is 1 in the masks and 2 in the boxes. Its own boxes are of 80 pairs beside "
        "the parts: open the folder detection as a set of your own, or bring boxes for the parts as boxes/NAME.txt.",
    ),
    "fmb": KnownSet(
        "FMB, Liu et al. 2023",
        ("fmb",),
        "https://github.com/JinyuanLiu-CV/SegMiF",
        size="800x600",
        splits={"train": 1220, "test": 280},
        masks=(
            *("background", "road", "sidewalk", "building", "lamp", "sign", "vegetation", "sky", "person", "car"),
            *("truck", "bus", "motorcycle", "bicycle", "pole"),
        ),
        tree=("{train,test}/{Visible,Infrared}/00001.png", "{train,test}/Label/00001.png (class numbers)"),
        steps="Unpack train and test. The masks are those in Label; the coloured pictures beside them are refused.",
    ),
    # Boxes in the order of the lists' numbers. The published protocol calls 4 Lamp and 5 Truck, but the 2,405 boxes of
    # 5 show traffic lights and the 1,008 of 4 trucks; YOLO text in circulation has two orders more.
    "m3fd": KnownSet(
        "M3FD, Liu et al. 2022",
        ("m3fd", "m3fd_detection", "m3fd_fusion"),
        "https://github.com/JinyuanLiu-CV/TarDAL",
        size="1024x768",
        splits={"train": 3150, "test": 1050},
        boxes=("People", "Car", "Bus", "Motorcycle", "Truck", "Lamp"),
        unordered=True,
        every=4,
        tree=("{Vis,Ir}/00000.png", "Annotation/00000.xml (VOC)"),
        steps="Unpack M3FD_Detection. It has no parts of its own: put M3FD_train.txt and M3FD_test.txt beside it, "
        "or one pair in four is drawn for the test with a seed.",
    ),
    "llvip": KnownSet(
        "LLVIP, Jia et al. 2021",
        ("llvip",),
        "https://github.com/bupt-ai-cz/LLVIP",
        licence="non-commercial use only (Term of Use and License.md)",
        size="1280x1024",
        splits={"train": 12025, "test": 3463},
        boxes=("person",),
        tree=("{visible,infrared}/{train,test}/010001.jpg", "Annotations/010001.xml (VOC)"),
        steps="Unpack LLVIP.zip. The published TDFusion protocol takes every tenth pair of each part: every=10.",
    ),
    "mfnet": KnownSet(
        "MFNet, Ha et al. 2017",
        ("mfnet", "ir_seg_dataset"),
        "https://www.mi.t.u-tokyo.ac.jp/static/projects/mil_multispectral/",
        (("images", "images"),),
        size="640x480",
        splits={"train": 784, "val": 392, "test": 393},
        masks=_ROAD,
        tree=(
            "images/00001D.png (red, green, blue, infrared)",
            "labels/00001D.png (class numbers)",
            "train.txt, val.txt, test.txt (also test_day.txt, test_night.txt)",
        ),
        steps="Unpack ir_seg_dataset: images of four channels, labels, and train.txt, val.txt, test.txt.",
    ),
    "roadscene": KnownSet(
        "RoadScene, Xu et al. 2020",
        ("roadscene", "roadscene-master"),
        "https://github.com/hanna-xu/RoadScene",
        (("crop_LR_visible", "cropinfrared"),),
        splits={"train": 171, "test": 50},
        test_list="roadscene-test",
        tree=("crop_LR_visible/FLIR_00006.jpg", "cropinfrared/FLIR_00006.jpg"),
        steps="Unpack the repository. It has no parts of its own; the usual 50 test pairs are packaged.",
    ),
    "tno": KnownSet(
        "TNO Image Fusion Dataset, Toet 2014",
        ("tno", "tno_image_fusion_dataset"),
        "https://doi.org/10.6084/m9.figshare.1008029",
        licence="see its page",
        splits={"test": 42},
        tree=("a folder per scene, with names of its own",),
        steps="Put the pairs you use into vi and ir under the same names; the original has a folder per scene.",
    ),
    "sice": KnownSet(
        "SICE, Cai et al. 2018",
        ("sice", "sice_dataset"),
        "https://github.com/csjcai/SICE",
        (("{part}/*/<last>", "{part}/*/<first>"), ("*/<last>", "*/<first>")),
        splits={"train": 360, "test": 229},
        tree=("Dataset_Part1/1/1.JPG ... 7.JPG (dark to bright)", "Dataset_Part1/Label/1.JPG (not read)"),
        steps="Unpack both parts beside each other. Of each scene the brightest and the darkest exposure are the pair. "
        "Part 1 is for training, part 2 for the test, as those do who use the set; it names no parts itself.",
        kind="exposure",
        parts={"train": "Dataset_Part1", "test": "Dataset_Part2"},
    ),
    "mefb": KnownSet(
        "MEFB, Zhang 2021",
        ("mefb", "mefb-main"),
        "https://github.com/xingchenzhang/MEFB",
        (("input/*/*_A", "input/*/*_B"), ("*/*_A", "*/*_B")),
        splits={"test": 100},
        tree=("input/Arno/Arno_A.png", "input/Arno/Arno_B.png"),
        steps="Unpack the repository. The letters do not say which exposure is which; the brighter one is a.",
        kind="exposure",
        brighter=True,
    ),
    "realmff": KnownSet(
        "Real-MFF, Zhang et al. 2020",
        ("realmff", "real-mff"),
        "https://github.com/truth-zheng/RealMFF",
        (("imageA/*_A", "imageB/*_B"),),
        size="625x433",
        splits={"train": 639, "test": 71},
        every=10,
        tree=("imageA/001_A.png", "imageB/001_B.png", "Fusion/001_F.png (not read)"),
        steps="Unpack it. It has no parts of its own: one pair in ten is drawn for the test with a seed.",
        kind="focus",
    ),
    "mfi_whu": KnownSet(
        "MFI-WHU, Zhang et al. 2021",
        ("mfi-whu", "mfi_whu", "mfi-whu-master"),
        "https://github.com/HaoZhang1018/MFI-WHU",
        (("source_1", "source_2"), ("MFI-WHU/source_1", "MFI-WHU/source_2")),
        splits={"train": 90, "test": 30},
        every=4,
        tree=("source_1/1.jpg", "source_2/1.jpg", "full_clear/1.jpg (not read)"),
        steps="Unpack MFI-WHU.zip. It has no parts of its own: one pair in four is drawn for the test with a seed.",
        kind="focus",
    ),
    "lytro": KnownSet(
        "Lytro multi-focus dataset, Nejati et al. 2015",
        ("lytro", "lytrodataset"),
        "https://mansournejati.ece.iut.ac.ir/content/lytro-multi-focus-dataset",
        (("*-A", "*-B"),),
        licence="see its page",
        size="520x520",
        splits={"test": 20},
        tree=("lytro-01-A.jpg", "lytro-01-B.jpg"),
        steps="Unpack the colour pairs. The series of three are fused by tectum fuse --kind focus.",
        kind="focus",
    ),
    **{
        f"harvard_{scan.lower()}_mri": KnownSet(
            f"Harvard {scan}-MRI, AANLIB Whole Brain Atlas as divided by Gu et al. 2022",
            (f"harvard_{scan.lower()}_mri", f"{scan.lower()}-mri", f"{scan.lower()}_mri"),
            "https://github.com/xianming-gu/Havard-Medical-Image-Fusion-Datasets",
            ((f"MyDatasets/{scan}-MRI/{{split}}/{scan}", f"MyDatasets/{scan}-MRI/{{split}}/MRI"),),
            size="256x256",
            splits={"test": 24},
            tree=(f"MyDatasets/{scan}-MRI/{{train,test}}/{scan}/NUMBER.png", "and MRI/NUMBER.png beside it"),
            steps="Unpack the repository; its folder MyDatasets has the parts. They are divided by slice: test slices "
            "have neighbours of the same patient in train.",
            kind="medical",
            sides=((scan, "MRI"), ("b", "a")),
        )
        for scan in ("CT", "PET", "SPECT")
    },
}
VOC = KnownSet(
    "VOCdevkit",
    ("vocdevkit", "voc", "voc2007", "voc2012"),
    "",
    tuple((a, "JPEGImages_ir") for a in ("JPEGImages_vis", "JPEGImages_vi", "JPEGImages")),
    every=10,
    tree=(
        "JPEGImages_vis/NAME.jpg (or JPEGImages)",
        "JPEGImages_ir/NAME.jpg",
        "Annotations/NAME.xml",
        "SegmentationClass/NAME.png (class numbers, palette or grey)",
        "ImageSets/{Main,Segmentation}/{train,val,test}.txt",
        "classes.txt (the names, one a line; for masks the background first)",
    ),
    steps="Without lists one pair in ten is drawn for the test with a seed. Without classes.txt the names are those in "
    "the annotations, and masks have numbers for names.",
)
FOLDER = KnownSet(
    "Your own pairs",
    (),
    "",
    tree=(
        "vi/NAME.png (or vis, visible)",
        "ir/NAME.png (or infrared)",
        "labels/NAME.png (class numbers; or label, masks)",
        "boxes/NAME.txt (class cx cy w h, relative; or Annotations/NAME.xml)",
        "classes.txt (the names, one a line; for masks the background first)",
    ),
    steps="In train, val and test (train/vi or vi/train), or without. Lists train.txt, val.txt and test.txt divide "
    "what no folder does. Without classes.txt the numbers are the names.",
)
