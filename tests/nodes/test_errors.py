"""Bad input: one line that says what to do."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def refused(run, error):
    """refused("EstimateDepth", ...) -> the message."""

    def run_node(name, **given):
        with pytest.raises(error) as raised:
            run(name, **given)
        text = str(raised.value)
        assert "\n" not in text and text.endswith(".")
        return text

    return run_node


def test_nan_in_the_image(refused, model, image):
    image = image.clone()
    image[0, 3, 4, 1] = torch.nan
    assert "NaN" in refused("EstimateDepth", model=model, image=image)
    assert "NaN" in refused("DepthFromImage", image=image)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 0, 8, 3), (8, 8, 3)])
def test_an_image_without_pixels(refused, model, shape):
    assert "with some pixels" in refused("EstimateDepth", model=model, image=torch.zeros(shape))


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.zeros(1, 0, 0), "no pixels"),
        (torch.zeros(1, 48, 64), "switch invert_mask on"),
        (torch.ones(1, 24, 64), "64 x 24"),
        (torch.ones(3, 48, 64), "3 masks for 1 images"),
    ],
)
def test_masks(refused, model, image, mask, says):
    assert says in refused("EstimateDepth", model=model, image=image, mask=mask)
    assert says in refused("DepthFromImage", image=image, mask=mask)


def test_depth_maps_of_several_sizes(run, refused, depth):
    other = run("DepthFromImage", image=torch.rand(1, 5, 7, 3))[0]
    for name in ("Normalize", "Colorize"):
        assert "6 x 4, 7 x 5" in refused(name, depth=depth + other)


def test_a_constant_map(run, refused):
    flat = run("DepthFromImage", image=torch.full((1, 4, 4, 3), 0.5))[0]
    assert "constant" in refused("Normalize", depth=flat)


def test_colours_of_an_uncertainty_that_is_not_there(refused, depth):
    assert "2 or more" in refused("Colorize", depth=depth, show="uncertainty")


def test_disparity_between_wrong_distances(refused):
    says = refused(
        "DepthFromImage", image=torch.rand(1, 4, 6, 3), kind="disparity", near_distance=5.0,
        far_distance=5.0,
    )  # fmt: skip
    assert "near_distance is 5" in says and "far_distance is 5" in says


def test_a_fixed_range_without_width(refused, depth):
    says = refused("Normalize", depth=depth, mode="fixed near/far", near_value=1.0, far_value=1.0)
    assert "near_value and far_value are both 1" in says


def test_the_mask_of_a_file_without_alpha_is_no_mask(run, model, image):
    # What Load Image gives then.
    empty = torch.zeros(1, 64, 64)
    (one,) = run("EstimateDepth", model=model, image=image, steps=1, resolution=64, mask=empty)[0]
    assert one.mask is None


def test_metres_that_do_not_fit_a_png(run, refused):
    depth = run("DepthFromImage", image=torch.full((1, 4, 6, 3), 70.0), kind="distance")[0]
    assert "EXR" in refused("SaveDepth", depth=depth)


def test_maps_that_do_not_belong_together(run, refused, depth):
    other = run("DepthFromImage", image=torch.rand(1, 5, 7, 3))[0]
    assert "different sizes" in refused("CombineDepth", depth_1=depth, depth_2=other)
    assert "1, 2 depth maps" in refused("CombineDepth", depth_1=depth, depth_2=depth + depth)


def test_geometry_that_is_all_sky(refused):
    geometry = {
        "depth": torch.ones(1, 4, 6), "sky": torch.ones(1, 4, 6), "image": torch.rand(1, 4, 6, 3)
    }  # fmt: skip
    assert "all of it is sky or masked" in refused("DepthFromGeometry", geometry=geometry)


def test_the_tiny_vae_does_not_fit_nano(refused):
    assert "set vae to standard" in refused("LoadMarigold", checkpoint="nano", vae="tiny")


def test_frames_of_different_kinds(run, refused, depth):
    from dataclasses import replace

    metric = replace(depth[0], scale_invariant=False, shift_invariant=False)
    assert "not the frames of one clip" in refused(
        "Normalize", depth=[depth[0], metric], sequence=True
    )


def test_the_wrong_picture_on_a_mesh(refused, depth):
    says = refused("DepthToMesh", depth=depth, image=torch.rand(1, 40, 6, 3))
    assert "do not belong together" in says
    assert "the first is 0" in refused(
        "DepthToMesh", depth=depth, image=torch.rand(1, 4, 6, 3), image_index=3
    )
    assert "2 images for 1 depth maps" in refused(
        "DepthToMesh", depth=depth, image=torch.rand(2, 4, 6, 3)
    )


def test_near_beyond_far_is_found_before_anything_runs(nodes):
    answer = nodes["DepthToMesh"].validate_inputs(near=5.0, far=1.0)
    assert answer == "far (1) must be greater than near (5)."
    # Connected values are not known before the run.
    assert nodes["DepthToMesh"].validate_inputs(near=None, far=1.0) is True
