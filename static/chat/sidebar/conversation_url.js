// The URL of a conversation: /#c/<appID>. A conversation without messages has the URL /.

const HASH_PREFIX = "#c/";
const MAX_LENGTH = 155; // the server's limit for an appID, in characters

/** @returns {string | null} */
export function appIDFromUrl() {
  if (!location.hash.startsWith(HASH_PREFIX)) return null;
  try {
    const appID = decodeURIComponent(location.hash.slice(HASH_PREFIX.length));
    return appID && Array.from(appID).length <= MAX_LENGTH ? appID : null;
  } catch {
    return null; // malformed percent-encoding
  }
}

/** @param {string} appID @returns {string} */
export function urlOf(appID) {
  return HASH_PREFIX + encodeURIComponent(appID);
}

/** Navigate with a new history entry. @param {string | null} appID null: a conversation without messages */
export function pushUrl(appID) {
  if (appIDFromUrl() !== appID) history.pushState(null, "", appID === null ? location.pathname : urlOf(appID));
}

/** Change the URL of the current history entry. @param {string | null} appID null: a conversation without messages */
export function replaceUrl(appID) {
  if (appIDFromUrl() !== appID) history.replaceState(null, "", appID === null ? location.pathname : urlOf(appID));
}
