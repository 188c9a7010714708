// What the tiles note for a query: items of one group that may be among its k best.
#pragma once

struct Noted {
  unsigned group;  // in the numbering of groups that runs through all lists of the query
  unsigned items;  // a bit an item
};
