use super::super::testing::{any_group, cipher, identity, transfer, transfers};
use super::*;
use proptest::prelude::*;

fn encoded(group: &[Entry]) -> (Vec<Vec<u8>>, PageHash) {
    let mut encoder = Encoder::default();
    let head = encoder
        .encode(identity(), &cipher(), group, group[0].first, [7; 32])
        .unwrap();
    (
        encoder.pages().map(|(_, page)| page.to_vec()).collect(),
        head,
    )
}

fn decoded(pages: &[Vec<u8>]) -> Vec<Entry> {
    let cipher = cipher();
    let mut entries = Vec::new();
    for page in pages {
        let page = Page::parse_of(identity(), page).unwrap();
        entries.extend(Entries::of(&page, &cipher).map(Result::unwrap));
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_encoded_comes_back_the_same(group in any_group(40)) {
        let (pages, head) = encoded(&group);
        prop_assert_eq!(decoded(&pages), group.clone());
        let (mut previous, count) = ([7; 32], u32::try_from(pages.len()).unwrap());
        for (index, bytes) in (0..).zip(&pages) {
            prop_assert!(bytes.len() <= PAGE_BYTES_MAX);
            let page = Page::parse(bytes).unwrap();
            prop_assert_eq!(page.header.previous_hash, previous);
            prop_assert_eq!((page.header.index, page.header.count), (index, count));
            prop_assert_eq!(page.header.group, group[0].first);
            previous = page.hash();
        }
        prop_assert_eq!(previous, head);
    }

    #[test]
    fn any_entry_is_found_without_decoding_those_before(group in any_group(12), pick in any::<prop::sample::Index>()) {
        let (pages, _) = encoded(&group);
        let wanted = pick.get(&group);
        let page = pages.iter().map(|page| Page::parse(page).unwrap())
            .find(|page| page.header.last >= wanted.first).unwrap();
        let cipher = cipher();
        for sequence in [wanted.first, wanted.last()] {
            let mut entries = Entries::of(&page, &cipher);
            entries.skip_to(sequence);
            prop_assert_eq!(&entries.next().unwrap().unwrap(), wanted);
        }
    }

    #[test]
    fn any_bytes_with_a_true_checksum_are_an_error_or_entries_and_never_a_panic(
        body in proptest::collection::vec(any::<u8>(), 0..600),
        entries in 1_u16..20,
        length in 1_u64..60,
    ) {
        let first = Sequence::new(5);
        let header = PageHeader {
            identity: identity(), group: first, index: 0, count: 1, entries,
            first, last: first.plus(length), previous_hash: [0; 32],
        };
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(&body);
        prop_assert!(header.seal(&mut bytes));
        let page = Page::parse(&bytes).unwrap();
        let read = Entries::of(&page, &cipher()).count();
        prop_assert!(read <= usize::from(entries) + 1);
    }
}

#[test]
fn every_flipped_bit_of_a_page_is_noticed() {
    let (pages, _) = encoded(&transfers(&cipher(), Sequence::ORIGIN, 3));
    let mut page = pages[0].clone();
    for bit in 0..page.len() * 8 {
        page[bit / 8] ^= 1 << (bit % 8);
        assert!(Page::parse(&page).is_err(), "bit {bit}");
        page[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Page::parse(&page).is_ok());
}

#[test]
fn every_flipped_bit_of_an_entry_under_a_true_checksum_is_no_panic() {
    let group = super::super::testing::every_kind(&cipher());
    let (pages, _) = encoded(&group);
    let header = Page::parse(&pages[0]).unwrap().header;
    let mut page = pages[0].clone();
    let mut refused = 0;
    for bit in HEADER_BYTES * 8..page.len() * 8 {
        page[bit / 8] ^= 1 << (bit % 8);
        assert!(header.seal(&mut page));
        let parsed = Page::parse(&page).unwrap();
        let entries: Result<Vec<Entry>, _> = Entries::of(&parsed, &cipher()).collect();
        refused += usize::from(entries.is_err());
        assert_ne!(
            entries.ok().as_ref(),
            Some(&group),
            "bit {bit} changes nothing"
        );
        page[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_page_cut_short_anywhere_is_an_error() {
    let (pages, _) = encoded(&transfers(&cipher(), Sequence::ORIGIN, 2));
    for length in 0..pages[0].len() {
        assert!(Page::parse(&pages[0][..length]).is_err(), "{length} bytes");
    }
    let mut longer = pages[0].clone();
    longer.push(0);
    assert_eq!(Page::parse(&longer).unwrap_err(), PageError::Length);
}

#[test]
fn a_newer_format_is_called_so() {
    let (pages, _) = encoded(&transfers(&cipher(), Sequence::ORIGIN, 1));
    let mut page = pages[0].clone();
    page[8] = 2;
    page[44..48].fill(0);
    let crc = crc32fast::hash(&page);
    page[44..48].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Page::parse(&page).unwrap_err(), PageError::NewerFormat(2));
}

#[test]
fn a_transfer_takes_some_hundred_and_fifty_bytes() {
    let group = transfers(&cipher(), Sequence::ORIGIN, 1_000);
    let bytes: usize = encoded(&group).0.iter().map(Vec::len).sum();
    assert!(
        bytes / group.len() <= 150,
        "{} bytes a transfer",
        bytes / group.len()
    );
}

#[test]
fn what_cannot_be_read_back_is_not_written() {
    let cipher = cipher();
    let mut encoder = Encoder::default();
    let mut encode = |group: &[Entry]| {
        encoder.encode(identity(), &cipher, group, Sequence::new(1), page::NO_PAGE)
    };
    assert_eq!(encode(&[]), Err(EncodeError::Empty));
    let gap = EncodeError::Gap {
        expected: Sequence::new(1),
        found: Sequence::new(2),
    };
    assert_eq!(encode(&[transfer(&cipher, Sequence::new(2))]), Err(gap));
    let change = |change: &dyn Fn(&mut Movement)| {
        let mut entry = transfer(&cipher, Sequence::new(1));
        if let Body::Transfer(movement) = &mut entry.body {
            change(movement);
        }
        entry
    };
    let long = change(&|movement| movement.metadata = Some("x".repeat(TEXT_BYTES_MAX + 1).into()));
    assert!(matches!(encode(&[long]), Err(EncodeError::Entry { .. })));
    let strange = change(&|movement| movement.transaction = TransactionId(Uuid::from_u128(9)));
    assert!(matches!(encode(&[strange]), Err(EncodeError::Entry { .. })));
    assert!(encode(&[change(&|_| {})]).is_ok());
}
