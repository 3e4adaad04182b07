// Where pictures come from, and which square of them is the face.
import { rgbOf } from "./pixels.js";

const GUIDE = 0.72; // of the shorter side
const DETECT_EVERY_MS = 200;
const CONSTRAINTS = { audio: false, video: { facingMode: "user", width: { ideal: 640 }, height: { ideal: 480 } } };
const canvas = document.createElement("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true });

/** The webcam's MediaStream. Throws an Error with a line for people. */
export async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("The browser gives a webcam to pages from https:// or localhost alone; open this page so.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia(CONSTRAINTS);
  } catch (error) {
    const reasons = {
      NotAllowedError: "The webcam was not allowed; allow it in the address bar and start again.",
      NotFoundError: "No webcam was found; connect one, or choose a picture.",
      NotReadableError: "The webcam is used by another program; close that and start again.",
    };
    throw new Error(reasons[error.name] ?? `The webcam can't be used: ${error.message}`);
  }
}

/** Ends a MediaStream, or nothing where there is none: the browser's sign of a camera in use goes out. */
export function stopStream(stream) {
  stream?.getTracks().forEach((track) => track.stop());
}

/** The square in the middle, {left, top, side} in pixels. */
export function guideSquare(width, height) {
  const side = Math.round(GUIDE * Math.min(width, height));
  return { left: Math.floor((width - side) / 2), top: Math.floor((height - side) / 2), side };
}

/** Finds the largest face where the browser can (FaceDetector API), else always the guide's square. */
export function squareFinder() {
  let detector = "FaceDetector" in window ? new window.FaceDetector({ fastMode: true, maxDetectedFaces: 1 }) : null;
  let found = null;
  let dueAt = 0;
  return async (source, width, height) => {
    if (detector && performance.now() >= dueAt) {
      dueAt = performance.now() + DETECT_EVERY_MS;
      try {
        const [face] = await detector.detect(source);
        found = face ? squareOf(face.boundingBox, width, height) : null;
      } catch {
        [detector, found] = [null, null]; // some browsers have the API and no detector behind it
      }
    }
    return found ?? guideSquare(width, height);
  };
}

/** The square around a box's centre with the box's longer side, moved and shrunk into the picture. */
function squareOf(box, width, height) {
  const side = Math.min(Math.round(Math.max(box.width, box.height)), width, height);
  const inside = (middle, most) => Math.max(0, Math.min(most - side, Math.round(middle - side / 2)));
  return { left: inside(box.x + box.width / 2, width), top: inside(box.y + box.height / 2, height), side };
}

/** The RGB bytes of a square, one for one: nothing is scaled here. */
export function take(source, { left, top, side }) {
  if (canvas.width !== side) canvas.width = canvas.height = side;
  pen.drawImage(source, left, top, side, side, 0, 0, side, side);
  return rgbOf(pen.getImageData(0, 0, side, side));
}
