"""ScanNet++, ARKitScenes and GS-Reasoner folders of a synthetic room, in their owners' layouts."""

import functools
import json
import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from recording import SMALL, small_room
from scans import room_mesh, write_ply

SCENE = "036bce3393"
VIDEO = "41069021"
FRAMES = 8
COLOR_SIZE = (192, 144)
"""Of the ScanNet++ video."""


def scaled(size: tuple[int, int]) -> np.ndarray:
    """Return the room's intrinsics for images of a size, counted from the image's corner."""
    _, rendered = small_room()
    return np.diag([size[0] / SMALL.width, size[1] / SMALL.height, 1.0]) @ rendered.intrinsics


@functools.cache
def depths_mm() -> np.ndarray:
    """Return the room's depth as an iPhone has it, uint16 [frames, 192, 256]."""
    _, rendered = small_room()
    images = [Image.fromarray(depth).resize((256, 192), 0) for depth in rendered.depth_mm[:FRAMES]]
    return np.stack([np.asarray(image) for image in images])


def colors(size: tuple[int, int]) -> list[Image.Image]:
    """Return the room's colour frames in a size."""
    _, rendered = small_room()
    return [Image.fromarray(color).resize(size) for color in rendered.color[:FRAMES]]


def poses() -> np.ndarray:
    """Return camera-to-world matrices, float64 [frames, 4, 4]."""
    return np.asarray(small_room()[1].camera_to_world[:FRAMES], np.float64)


def deflate(content: bytes) -> bytes:
    """Return raw deflate, without header and checksum."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def block(content: bytes) -> bytes:
    """Return content with its size before it."""
    return len(content).to_bytes(4, "little") + content


def depth_bin(encoding: str) -> bytes:
    """Return depth.bin: "stream", or "blocks" of LZ4 and deflate in turn."""
    import lz4.block

    metres = (depths_mm().astype(np.float64) / 1000 + 0.0002).astype(np.float32)
    if encoding == "stream":
        return deflate(metres.tobytes())
    packed = [
        lz4.block.compress(depths_mm()[number].tobytes(), store_size=False)
        if number % 2 == 0
        else deflate(metres[number].tobytes())
        for number in range(FRAMES)
    ]
    return b"".join(block(content) for content in packed)


def write_video(path: Path) -> None:
    """Write rgb.mkv."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=60)
        stream.width, stream.height = COLOR_SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "5", "g": "4"}
        for image in colors(COLOR_SIZE):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def pose_rows() -> dict[str, dict[str, object]]:
    """Return the content of pose_intrinsic_imu.json."""
    return {
        f"frame_{number:06d}": {
            "timestamp": 100.5 + number / 60,
            "pose": np.eye(4).tolist(),
            "aligned_pose": pose.tolist(),
            "intrinsic": scaled(COLOR_SIZE).tolist(),
            "imu": {},
        }
        for number, pose in enumerate(poses())
    }


def to_nerfstudio(camera_to_world: np.ndarray) -> np.ndarray:
    """Return a pose as transforms.json has it: the definition, one element at a time."""
    out = np.eye(4)
    for column in range(4):
        sign = -1.0 if column in (1, 2) else 1.0
        x, y, z = (sign * camera_to_world[row, column] for row in range(3))
        out[:3, column] = (y, x, -z)
    return out


def write_nerfstudio(iphone: Path) -> None:
    """Write nerfstudio/transforms.json."""
    K = scaled(COLOR_SIZE)
    rows = [
        {"file_path": f"frame_{n:06d}.jpg", "transform_matrix": to_nerfstudio(pose).tolist()}
        for n, pose in enumerate(poses())
    ]
    content = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "k1": 0.04}
    content |= {"w": COLOR_SIZE[0], "h": COLOR_SIZE[1], "frames": rows[:-1]}
    (iphone / "nerfstudio").mkdir()
    path = iphone / "nerfstudio" / "transforms.json"
    path.write_text(json.dumps({**content, "test_frames": rows[-1:]}))


def quaternion(rotation: np.ndarray) -> list[float]:
    """Return w x y z of a rotation whose trace is above -1."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return [w, x, y, z]


def write_colmap(iphone: Path) -> None:
    """Write colmap/cameras.txt and images.txt."""
    K = scaled(COLOR_SIZE)
    (iphone / "colmap").mkdir()
    numbers = [*COLOR_SIZE, K[0, 0], K[1, 1], K[0, 2], K[1, 2], 0.04, 0, 0, 0]
    text = " ".join(str(value) for value in numbers)
    (iphone / "colmap" / "cameras.txt").write_text(f"# cameras\n1 OPENCV {text}\n")
    lines = ["# images"]
    for number, pose in enumerate(poses()):
        inverse = np.linalg.inv(pose)
        row = [*quaternion(inverse[:3, :3]), *inverse[:3, 3]]
        words = " ".join(repr(float(value)) for value in row)
        lines += [f"{number + 1} {words} 1 frame_{number:06d}.jpg", ""]
    (iphone / "colmap" / "images.txt").write_text("\n".join(lines) + "\n")


def write_objects(scans: Path) -> None:
    """Write mesh, segments and annotation."""
    room, _ = small_room()
    points, triangles, owners = room_mesh()
    scans.mkdir()
    write_ply(scans / "mesh_aligned_0.05.ply", points, triangles)
    (scans / "segments.json").write_text(json.dumps({"segIndices": list(range(len(points)))}))
    groups = [
        {
            "id": number,
            "objectId": number,
            "label": piece.label,
            "segments": np.flatnonzero(owners == number).tolist(),
            "obb": {
                "centroid": points[owners == number].mean(axis=0).tolist(),
                "axesLengths": np.ptp(points[owners == number], axis=0).tolist(),
                "normalizedAxes": np.eye(3).reshape(-1).tolist(),
            },
        }
        for number, piece in enumerate(room.pieces, start=1)
    ]
    (scans / "segments_anno.json").write_text(json.dumps({"segGroups": groups}))


def write_scannetpp(root: Path, *, encoding: str = "blocks", scene: str = SCENE) -> Path:
    """Write one scene with everything, and a list of it; return the scene's folder."""
    folder = root / "data" / scene
    iphone = folder / "iphone"
    iphone.mkdir(parents=True)
    (iphone / "depth.bin").write_bytes(depth_bin(encoding))
    write_video(iphone / "rgb.mkv")
    (iphone / "pose_intrinsic_imu.json").write_text(json.dumps(pose_rows()))
    write_nerfstudio(iphone)
    write_colmap(iphone)
    write_objects(folder / "scans")
    (root / "splits").mkdir(exist_ok=True)
    with (root / "splits" / "nvs_sem_val.txt").open("a") as file:
        file.write(f"{scene}\n")
    return folder


def axis_angle(rotation: np.ndarray) -> list[float]:
    """Return the axis of a rotation, as long as its angle in radians."""
    from scipy.spatial.transform import Rotation

    return [float(value) for value in Rotation.from_matrix(rotation).as_rotvec()]


def arkit_box() -> dict[str, object]:
    """Return one annotated box, turned by 30 degrees about z."""
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    box = {
        "centroid": [1.0, 2.0, 0.5],
        "axesLengths": [2.0, 1.0, 1.0],
        "normalizedAxes": [c, s, 0.0, -s, c, 0.0, 0.0, 0.0, 1.0],
    }
    return {"uid": "a1", "label": "sofa", "segments": {"obbAligned": box}}


def write_arkit(root: Path, *, fold: str = "Validation", video: str = VIDEO) -> Path:
    """Write one recording of 10 frames a second; return its folder."""
    folder = root / fold / video
    frames = folder / f"{video}_frames"
    for name in ("lowres_wide", "lowres_depth", "lowres_wide_intrinsics"):
        (frames / name).mkdir(parents=True)
    K = scaled((256, 192))
    pincam = f"256 192 {K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]}"
    lines = []
    for number, image in enumerate(colors((256, 192))):
        time = f"{6845.706 + number / 10:.3f}"
        image.save(frames / "lowres_wide" / f"{video}_{time}.png")
        depth = Image.fromarray(depths_mm()[number])
        depth.save(frames / "lowres_depth" / f"{video}_{time}.png")
        # a millisecond early, as upstream allows
        name = f"{video}_{6845.705 + number / 10:.3f}.pincam"
        (frames / "lowres_wide_intrinsics" / name).write_text(pincam)
        inverse = np.linalg.inv(poses()[number])
        words = [f"{6845.70605696 + number / 10:.8f}", *axis_angle(inverse[:3, :3])]
        words += [float(value) for value in inverse[:3, 3]]
        lines.append(" ".join(str(word) for word in words))
    (frames / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    content = {"skipped": False, "data": [arkit_box()]}
    (folder / f"{video}_3dod_annotation.json").write_text(json.dumps(content))
    return folder


TURN = np.array([[0.0, -1, 0, 0.25], [1, 0, 0, -0.5], [0, 0, 1, 0.125], [0, 0, 0, 1]])
"""An axis alignment."""


def write_processed(root: Path, dataset: str = "scannetpp", *, scale: float | None = None) -> Path:
    """Write one scene of a processed_data tree in split val; return the data set's folder.

    Each data set in its own way: scannet is aligned already, arkitscenes has intrinsics a frame.

    Poses are the room's, moved so that alignment and scale bring them back.
    """
    tree = root / dataset
    for name in ("color", "depth", "pose"):
        (tree / name / "val" / SCENE).mkdir(parents=True)
    (tree / "intrinsic" / "val").mkdir(parents=True)
    unit = 1.0 if scale is None else scale
    back = np.linalg.inv(TURN) if dataset != "scannet" else np.eye(4)
    for number, image in enumerate(colors((128, 96))):
        stem, suffix = {
            "scannet": (f"{number:06d}", ".jpg"),
            "scannetpp": (f"frame_{number:06d}", ".jpg"),
        }.get(dataset, (f"{VIDEO}_{6845.706 + number / 10:.3f}", ".png"))
        image.save(tree / "color" / "val" / SCENE / f"{stem}{suffix}")
        depth = np.round(depths_mm()[number] / unit).astype(np.uint16)
        Image.fromarray(depth).save(tree / "depth" / "val" / SCENE / f"{stem}.png")
        pose = poses()[number].copy()
        pose[:3, 3] /= unit
        np.savetxt(tree / "pose" / "val" / SCENE / f"{stem}.txt", back @ pose)
        if dataset == "arkitscenes":
            (tree / "intrinsic" / "val" / SCENE).mkdir(exist_ok=True)
            path = tree / "intrinsic" / "val" / SCENE / f"{stem}.txt"
            np.savetxt(path, scaled((256, 192)))
    name = {"scannet": "intrinsic_depth", "scannetpp": "intrinsics"}.get(dataset)
    if name is not None:
        np.savetxt(tree / "intrinsic" / "val" / f"{name}_{SCENE}.txt", scaled((256, 192)))
    if dataset != "scannet":
        place = tree / "axis_align_matrix" / "val"
        place.mkdir(parents=True)
        np.savetxt(place / f"{SCENE}_further_aligned_transform.txt", TURN, fmt="%.8f")
    if scale is not None:
        place = tree / "global_scale" / "val"
        place.mkdir(parents=True)
        (place / f"{SCENE}.txt").write_text(f"{scale}\n")
    return tree
