"use strict";
// The camera's picture, frame by frame.
(camfn => {
  const REASONS = { NotAllowedError: "it was not allowed", NotFoundError: "there is none", NotReadableError: "another program uses it" };

  // Start the camera: `each(picture)` is awaited for a frame before the next is taken, `failed(error)` hears of an error.
  // Returns the function that stops it.
  async function camera(each, failed) {
    if (!navigator.mediaDevices?.getUserMedia) throw new Error("No camera here: a browser lends it only to https, to localhost and to files.");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 640 } }, audio: false });
    } catch (error) {
      throw new Error(`No picture of the camera: ${REASONS[error.name] ?? error.message}.`, { cause: error });
    }
    const video = document.createElement("video");
    Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
    await video.play();
    let running = true;
    const stop = () => {
      running = false;
      stream.getTracks().forEach(track => track.stop());
    };
    (async () => {
      while (running) {
        if (!document.hidden && video.videoWidth) await each(camfn.drawn(video, video.videoWidth, video.videoHeight));
        await new Promise(next => requestAnimationFrame(next));
      }
    })().catch(error => {
      stop();
      failed(error);
    });
    return stop;
  }

  Object.assign(camfn, { camera });
})((globalThis.camfn ??= {}));
