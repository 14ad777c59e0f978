// Microphone and camera. Both give a File that any model reads: sound as WAV of 16 kHz, a picture as JPEG.

import { byId } from "./dom.js";

const RATE_HZ = 16_000;

export const canRecord = Boolean(navigator.mediaDevices?.getUserMedia && globalThis.MediaRecorder);

export class Recorder {
  /** Asks for the microphone and begins. */
  static async start() {
    const recorder = new Recorder();
    recorder.source = await navigator.mediaDevices.getUserMedia({ audio: true });
    recorder.pieces = [];
    recorder.media = new MediaRecorder(recorder.source);
    recorder.media.addEventListener("dataavailable", (event) => recorder.pieces.push(event.data));
    recorder.media.start();
    return recorder;
  }

  /** Ends it, and gives what was heard. */
  async stop() {
    const ended = new Promise((resolve) => this.media.addEventListener("stop", resolve, { once: true }));
    this.media.stop();
    await ended;
    for (const track of this.source.getTracks()) track.stop();
    const encoded = await new Blob(this.pieces).arrayBuffer();
    const sound = await new OfflineAudioContext(1, 1, RATE_HZ).decodeAudioData(encoded);
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    return new File([wav(mono(sound))], `voice-note-${time}.wav`, { type: "audio/wav" });
  }
}

function mono(sound) {
  const mixed = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((value, at) => (mixed[at] += value / sound.numberOfChannels));
  }
  return mixed;
}

/** Samples from -1 to 1 as a WAV file of 16 bits and one channel. */
function wav(samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, n) => view.setUint8(at + n, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE_HZ, true);
  view.setUint32(28, 2 * RATE_HZ, true); // bytes a second
  view.setUint16(32, 2, true); // bytes of a sample
  view.setUint16(34, 16, true); // bits of a sample
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, at) => view.setInt16(44 + 2 * at, Math.round(32767 * Math.max(-1, Math.min(1, value))), true));
  return view.buffer;
}

/** A picture from the camera; null where the person thinks better of it. */
export async function takePicture() {
  const source = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const [dialog, video] = [byId("camera-dialog"), byId("camera-view")];
  video.srcObject = source;
  dialog.showModal();
  const isWanted = await new Promise((resolve) => {
    byId("camera-take").onclick = () => resolve(true);
    byId("camera-cancel").onclick = () => resolve(false);
    dialog.oncancel = () => resolve(false);
  });
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  dialog.close();
  for (const track of source.getTracks()) track.stop();
  video.srcObject = null;
  if (!isWanted) return null;
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return new File([blob], "camera.jpg", { type: "image/jpeg" });
}
