// The colours of a picture, such as "#1c2733". picture: a PNG in base64.
async (picture) => {
  const image = document.createElement("img");
  image.src = `data:image/png;base64,${picture}`;
  await image.decode();
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height), colours = new Set();
  for (let place = 0; place < data.length; place += 4) {
    const parts = [...data.slice(place, place + 3)];
    colours.add("#" + parts.map((part) => part.toString(16).padStart(2, "0")).join(""));
  }
  return [...colours];
}
