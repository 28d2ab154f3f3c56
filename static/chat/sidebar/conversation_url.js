// The page's address, which names the conversation: /#c/<appID>, and / where nothing was said yet.

const MARK = "#c/";
const LIMIT = 155; // characters of an appID that the server takes

/** The conversation that the address names. @returns {string | null} */
export function appIDInAddress() {
  if (!location.hash.startsWith(MARK)) return null;
  try {
    const appID = decodeURIComponent(location.hash.slice(MARK.length));
    return appID && Array.from(appID).length <= LIMIT ? appID : null;
  } catch {
    return null; // not an address of ours: a stray %
  }
}

/** @param {string} appID @returns {string} */
export function addressOf(appID) {
  return MARK + encodeURIComponent(appID);
}

/** Go to an address, which "back" then leads away from. @param {string | null} appID null: where nothing was said yet */
export function goTo(appID) {
  if (appIDInAddress() !== appID) history.pushState(null, "", appID === null ? location.pathname : addressOf(appID));
}

/** Let the address name another conversation, with nothing to go back to. @param {string | null} appID */
export function correctAddress(appID) {
  if (appIDInAddress() !== appID) history.replaceState(null, "", appID === null ? location.pathname : addressOf(appID));
}
