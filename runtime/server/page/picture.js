// The picture of the next question: from a file, a drop, the clipboard or the camera.

let picture = null; // {url: a data URL, name}

function showPicture(next) {
  picture = next;
  notice("");
  $("preview").hidden = !next;
  if (next) $("picture").src = next.url;
  else $("picture").removeAttribute("src");
  $("preview").querySelector("figcaption").textContent = next?.name ?? "";
}

/** Takes the first picture of some files; the bytes go to the server as they are. */
function takeFile(files) {
  const file = [...files].find((file) => file.type.startsWith("image/"));
  if (!file) {
    notice(`${files[0].name} isn't a picture.`);
    return;
  }
  const reader = new FileReader();
  reader.onload = () => showPicture({ url: reader.result, name: file.name });
  reader.onerror = () => notice(`${file.name} can't be read: ${reader.error.message}`);
  reader.readAsDataURL(file);
}

$("choose").onclick = () => $("file").click();
$("file").onchange = () => {
  if ($("file").files.length) takeFile($("file").files);
  $("file").value = ""; // so that the same one can be chosen again
  $("question").focus();
};
$("remove").onclick = () => {
  showPicture(null);
  $("question").focus();
};
document.onpaste = (event) => {
  if (event.clipboardData.files.length) takeFile(event.clipboardData.files);
};
document.ondragover = (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  $("composer").classList.add("over");
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) $("composer").classList.remove("over");
};
document.ondrop = (event) => {
  $("composer").classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  takeFile(event.dataTransfer.files);
};

// Browsers lend a camera to pages of https and of this computer alone.
$("camera").hidden = !navigator.mediaDevices?.getUserMedia;
$("camera").onclick = async () => {
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    $("viewfinder").showModal();
    $("take").focus();
  } catch (error) {
    notice(`The camera can't be used: ${error.message}.`);
  }
};
$("take").onclick = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [$("video").videoWidth, $("video").videoHeight];
  if (!canvas.width) return; // no frame has come yet
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  showPicture({ url: canvas.toDataURL("image/jpeg", 0.95), name: "from the camera" });
  $("viewfinder").close();
};
$("close").onclick = () => $("viewfinder").close();
$("viewfinder").onclose = () => {
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
  $("question").focus();
};
