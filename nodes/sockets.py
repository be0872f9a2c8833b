"""The pack's own sockets, for what one node makes and another takes."""

from comfy_api.latest import io

SAM = io.Custom("PENTIMENTO_SAM")
LaMa = io.Custom("PENTIMENTO_LAMA")
Crops = io.Custom("PENTIMENTO_CROPS")
ELLA = io.Custom("PENTIMENTO_ELLA")
SAM2 = io.Custom("PENTIMENTO_SAM2")
KeyFrames = io.Custom("PENTIMENTO_KEY_FRAMES")
Track = io.Custom("PENTIMENTO_TRACK")
Motion = io.Custom("PENTIMENTO_MOTION")
STTN = io.Custom("PENTIMENTO_STTN")
OSTrack = io.Custom("PENTIMENTO_OSTRACK")
OpticalFlow = io.Custom("OPTICAL_FLOW")  # ComfyUI's Load Optical Flow Model
FaceLandmarks = io.Custom("FACE_LANDMARKS")  # ComfyUI's Detect Face Landmarks (MediaPipe)
