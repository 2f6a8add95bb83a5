#include "runner/proto/mailbox.h"

#include <endian.h>
#include <string.h>

void mailbox_put(uint8_t page[MAILBOX_LEN], const struct mailbox *m)
{
	uint32_t magic = htole32(MAILBOX_MAGIC), version = htole32(MAILBOX_VERSION);
	uint64_t generation = htole64(m->generation), wall = htole64(m->wall_ns);

	memcpy(page, &magic, 4);
	memcpy(page + 4, &version, 4);
	memcpy(page + 8, &generation, 8);
	memcpy(page + 16, m->uuid, 16);
	memcpy(page + 32, &wall, 8);
}

bool mailbox_get(const uint8_t page[MAILBOX_LEN], struct mailbox *m)
{
	uint32_t magic, version;
	uint64_t generation, wall;

	memcpy(&magic, page, 4);
	memcpy(&version, page + 4, 4);
	if (le32toh(magic) != MAILBOX_MAGIC || le32toh(version) != MAILBOX_VERSION)
		return false;
	memcpy(&generation, page + 8, 8);
	memcpy(m->uuid, page + 16, 16);
	memcpy(&wall, page + 32, 8);
	m->generation = le64toh(generation);
	m->wall_ns = le64toh(wall);
	return true;
}
